#include "engine.h"

#include <cstring>
#include <new>
#include <string>

#include "description.h"

namespace engine {

using i64 = std::int64_t;

const Operator kOperators[kOperatorCount] = {
    {"Involution", 6, 3, {"value", "hidden", "weight", "bias", "scale", "offset"}},
    {"InvolutionOfField", 2, 2, {"input", "field"}},
    {"Correlation", 2, 2, {"query", "key"}},
};

namespace {

std::string text(const i64* numbers, i64 count) {
  std::string all = "(";
  for (i64 i = 0; i < count; i++) all += (i ? ", " : "") + std::to_string(numbers[i]);
  return all + (count == 1 ? ",)" : ")");
}
std::string text(const InvolutionArray& array) { return text(array.size, array.dims); }
std::string text(const InvolutionNumbers& numbers) { return text(numbers.at, numbers.count < 3 ? numbers.count : 3); }

[[noreturn]] void refuse(const InvolutionCall& call, const std::string& what) {
  throw Refusal(std::string("involution::") + kOperators[call.op].name + ": " + what);
}

// For a file that was changed, or written by something else than this library.
[[noreturn]] void refuse_attribute(const InvolutionCall& call, const std::string& what) {
  refuse(call, what + "; write the file again with involution.export.to_onnx");
}

// Sizes that the net makes of its inputs.
[[noreturn]] void refuse_input(const InvolutionCall& call, int i, const std::string& must) {
  refuse(call, std::string(kOperators[call.op].input_names[i]) + " must " + must + ", got " + text(call.inputs[i]) +
                   "; hand the net inputs of the sizes that it was exported for");
}
[[noreturn]] void refuse_shape(const InvolutionCall& call, int i, const std::string& expected) {
  refuse_input(call, i, "have the shape " + expected);
}

void check_numbers(const InvolutionCall& call, const char* name, const InvolutionNumbers& numbers, i64 dims, i64 least) {
  if (numbers.count != dims) {
    refuse_attribute(call, std::string(name) + " must have " + std::to_string(dims) +
                               " numbers, one per spatial dimension, got " + std::to_string(numbers.count));
  }
  for (i64 d = 0; d < dims; d++) {
    if (numbers.at[d] < least || numbers.at[d] > kLargest) {
      refuse_attribute(call, std::string(name) + " must be from " + std::to_string(least) + " to " +
                                 std::to_string(kLargest) + ", got " + text(numbers));
    }
  }
}

// Spatial dimensions of a call.
i64 dims_of(const InvolutionCall& call) { return call.op == kInvolutionOfField ? call.stride.count : call.kernel_size.count; }

// Input i, which has a batch, channels and `dims` sizes.
const InvolutionArray& map_of(const InvolutionCall& call, int i) {
  const InvolutionArray& map = call.inputs[i];
  const i64 dims = dims_of(call);
  if (map.dims != dims + 2) refuse_shape(call, i, dims == 1 ? "(B, C, L)" : dims == 2 ? "(B, C, H, W)" : "(B, C, D, H, W)");
  return map;
}

void check_groups(const InvolutionCall& call, i64 channels, i64 groups) {
  if (groups >= 1 && channels >= 1 && channels % groups == 0) return;
  refuse_attribute(call, "the groups must divide the channels, got " + std::to_string(groups) + " groups and " +
                             std::to_string(channels) + " channels");
}

// Refuses what does not lie on the output grid over a map: input i, whose grid begins at dimension `from`.
void check_grid(const InvolutionCall& call, const InvolutionArray& map, const InvolutionNumbers& taps, int i, i64 from) {
  const i64 dims = dims_of(call);
  i64 grid[3];
  for (i64 d = 0; d < dims; d++) {
    const i64 size = map.size[2 + d], span = call.dilation.at[d] * (taps.at[d] - 1) + 1;
    const i64 room = size + 2 * call.padding.at[d] - span;
    if (size < 1 || room < 0) {
      refuse(call, "a window of kernel size " + text(taps) + ", padding " + text(call.padding) + " and dilation " +
                       text(call.dilation) + " does not fit into a map of " + text(map.size + 2, dims) +
                       "; hand the net larger inputs");
    }
    grid[d] = room / call.stride.at[d] + 1;
  }
  if (same(grid, call.inputs[i].size + from, dims)) return;
  refuse_input(call, i, "lie on the output grid " + text(grid, dims) + " of a map of " + text(map.size + 2, dims) +
                            " for kernel size " + text(taps) + ", stride " + text(call.stride) + ", padding " +
                            text(call.padding) + " and dilation " + text(call.dilation));
}

void check_batch(const InvolutionCall& call, int i, i64 batch) {
  if (call.inputs[i].size[0] != batch) refuse_input(call, i, "have the batch size " + std::to_string(batch));
}

// The product of the kernel size and the groups, of which every tap makes a row.
i64 rows_of(const InvolutionCall& call) {
  __int128 rows = call.groups;
  for (i64 d = 0; d < dims_of(call); d++) {
    rows *= call.kernel_size.at[d];
    if (rows > kLargest) refuse_attribute(call, "kernel_size is too large, got " + text(call.kernel_size));
  }
  return i64(rows);
}

void prepare_involution(InvolutionCall& call) {
  const i64 dims = dims_of(call), rows = rows_of(call);
  const InvolutionArray &value = map_of(call, 0), &hidden = map_of(call, 1);
  check_batch(call, 1, value.size[0]);
  check_groups(call, value.size[1], call.groups);
  const i64 weight[5] = {rows, hidden.size[1], 1, 1, 1};
  if (call.inputs[2].dims != dims + 2 || !same(call.inputs[2].size, weight, dims + 2)) {
    refuse_shape(call, 2, text(weight, dims + 2));
  }
  const i64 lengths[3] = {rows, value.size[1], value.size[1]};
  for (int i = 0; i < 3; i++) {
    const InvolutionArray& vector = call.inputs[3 + i];
    if (vector.size && (vector.dims != 1 || vector.size[0] != lengths[i])) refuse_shape(call, 3 + i, text(&lengths[i], 1));
  }
  check_grid(call, value, call.kernel_size, 1, 2);
  call.output_dims = dims + 2;
  for (i64 d = 0; d < dims + 2; d++) call.output_size[d] = d < 2 ? value.size[d] : hidden.size[d];
}

InvolutionNumbers taps_of_field(const InvolutionCall& call) {
  InvolutionNumbers taps{dims_of(call), {}};
  for (i64 d = 0; d < taps.count; d++) taps.at[d] = call.inputs[1].size[2 + d];
  return taps;
}

void prepare_of_field(InvolutionCall& call) {
  const i64 dims = dims_of(call);
  const InvolutionArray &input = map_of(call, 0), &field = call.inputs[1];
  if (field.dims != 2 * dims + 2) {
    refuse_shape(call, 1, dims == 1 ? "(B, G, K, L')" : dims == 2 ? "(B, G, K, K, H', W')" : "(B, G, K, K, K, D', H', W')");
  }
  const InvolutionNumbers taps = taps_of_field(call);
  check_numbers(call, "the kernel size of the field", taps, dims, 1);
  check_batch(call, 1, input.size[0]);
  check_groups(call, input.size[1], field.size[1]);
  check_grid(call, input, taps, 1, 2 + dims);
  call.output_dims = dims + 2;
  for (i64 d = 0; d < dims + 2; d++) call.output_size[d] = d < 2 ? input.size[d] : field.size[dims + d];
}

void prepare_correlation(InvolutionCall& call) {
  const i64 dims = dims_of(call);
  rows_of(call);
  const InvolutionArray &query = map_of(call, 0), &key = map_of(call, 1);
  check_batch(call, 0, key.size[0]);
  if (query.size[1] != key.size[1]) refuse_input(call, 0, "have " + std::to_string(key.size[1]) + " channels, as the key");
  check_groups(call, key.size[1], call.groups);
  check_grid(call, key, call.kernel_size, 0, 2);
  call.output_dims = 2 * dims + 2;
  call.output_size[0] = key.size[0];
  call.output_size[1] = call.groups;
  for (i64 d = 0; d < dims; d++) {
    call.output_size[2 + d] = call.kernel_size.at[d];
    call.output_size[2 + dims + d] = query.size[2 + d];
  }
}

// Steps through the dimensions of a dense array.
struct DenseSteps {
  i64 at[kInvolutionDims] = {};

  DenseSteps(const i64* size, i64 dims) {
    i64 step = 1;
    for (i64 d = dims - 1; d >= 0; d--) {
      at[d] = step;
      step *= size[d];
    }
  }
};

// x is the size of the input side, y that of the output side.
InvolutionProblem problem_of(const InvolutionCall& call, const i64* x, const i64* y, i64 groups, const InvolutionNumbers& taps) {
  const i64 dims = dims_of(call);
  const WindowShape window{dims, taps.at, call.stride.at, call.padding.at, call.dilation.at};
  const DenseSteps of_x(x, dims + 2), of_y(y, dims + 2);
  return problem_of(call.dtype, groups, window, {x, of_x.at}, {y, of_y.at});
}

void add_dense_field(InvolutionProblem& p, const i64* size, i64 dims) {
  add_field(p, DenseSteps(size, 2 * dims + 2).at, dims);
}

void* data(const InvolutionCall& call, int i) { return const_cast<void*>(call.inputs[i].data); }

void compute_involution(const InvolutionCall& call, const InvolutionParallel& parallel) {
  const InvolutionArray &value = call.inputs[0], &hidden = call.inputs[1];
  InvolutionSpan span{};
  span.hidden = hidden.data;
  span.weight = call.inputs[2].data;
  span.channels = hidden.size[1];
  map_steps(DenseSteps(hidden.size, dims_of(call) + 2).at, dims_of(call), span.h);
  const auto given = [&](int i) { return call.inputs[i].size ? call.inputs[i].data : nullptr; };
  span.bias = given(3);
  span.epilogue = {given(4), given(5), call.relu != 0};
  const InvolutionProblem p = problem_of(call, value.size, call.output_size, call.groups, call.kernel_size);
  kernels().span_and_contract(p, value.data, span, call.output, parallel);
}

void compute_of_field(const InvolutionCall& call, const InvolutionParallel& parallel) {
  const InvolutionArray &input = call.inputs[0], &field = call.inputs[1];
  InvolutionProblem p = problem_of(call, input.size, call.output_size, field.size[1], taps_of_field(call));
  add_dense_field(p, field.size, dims_of(call));
  kernels().contract(kForward, p, data(call, 0), data(call, 1), call.output, parallel);
}

void compute_correlation(const InvolutionCall& call, const InvolutionParallel& parallel) {
  InvolutionProblem p = problem_of(call, call.inputs[1].size, call.inputs[0].size, call.groups, call.kernel_size);
  add_dense_field(p, call.output_size, dims_of(call));
  kernels().contract(kKernelGradient, p, data(call, 1), call.output, data(call, 0), parallel);
}

// What a function that throws comes to for a caller in C.
template <class F>
int said(char* sentence, i64 room, F&& function) {
  std::string what;
  try {
    function();
    return 0;
  } catch (const std::bad_alloc&) {
    what = "involution: scratch memory of a few hundred KiB per thread could not be allocated; free some memory";
  } catch (const std::exception& error) {
    what = error.what();
  }
  if (room > 0) {
    const std::size_t n = what.size() < std::size_t(room) ? what.size() : std::size_t(room) - 1;
    std::memcpy(sentence, what.data(), n);
    sentence[n] = 0;
  }
  return 1;
}

}  // namespace

void check(const InvolutionCall& call) {
  if (call.op < 0 || call.op >= kOperatorCount) throw Refusal("involution: there is no operator " + std::to_string(call.op));
  const i64 dims = dims_of(call);
  const char* first = call.op == kInvolutionOfField ? "stride" : "kernel_size";
  if (dims < 1 || dims > 3) {
    refuse_attribute(call, std::string(first) + " must have 1 to 3 numbers, one per spatial dimension, got " + std::to_string(dims));
  }
  if (call.op != kInvolutionOfField) {
    check_numbers(call, "kernel_size", call.kernel_size, dims, 1);
    if (call.groups < 1 || call.groups > kLargest) {
      refuse_attribute(call, "groups must be from 1 to " + std::to_string(kLargest) + ", got " + std::to_string(call.groups));
    }
  }
  check_numbers(call, "stride", call.stride, dims, 1);
  check_numbers(call, "padding", call.padding, dims, 0);
  check_numbers(call, "dilation", call.dilation, dims, 1);
}

void prepare(InvolutionCall& call) {
  check(call);
  const Operator& op = kOperators[call.op];
  if (call.dtype < kFloat32 || call.dtype > kFloat16) {
    refuse(call, "the inputs must be float32, float64, float16 or bfloat16; export the net in one of them");
  }
  for (int i = 0; i < op.required; i++) {
    if (!call.inputs[i].size) refuse_attribute(call, std::string("the input ") + op.input_names[i] + " is missing");
  }
  if (call.op == kInvolution) return prepare_involution(call);
  if (call.op == kInvolutionOfField) return prepare_of_field(call);
  prepare_correlation(call);
}

void compute(const InvolutionCall& call, const InvolutionParallel& parallel) {
  for (i64 d = 0; d < call.output_dims; d++) {
    if (call.output_size[d] == 0) return;
  }
  if (call.op == kInvolution) return compute_involution(call, parallel);
  if (call.op == kInvolutionOfField) return compute_of_field(call, parallel);
  compute_correlation(call, parallel);
}

}  // namespace engine

int involution_check(const InvolutionCall* call, char* sentence, std::int64_t room) {
  return engine::said(sentence, room, [&] { engine::check(*call); });
}

int involution_prepare(InvolutionCall* call, char* sentence, std::int64_t room) {
  return engine::said(sentence, room, [&] { engine::prepare(*call); });
}

int involution_compute(const InvolutionCall* call, const InvolutionParallel* parallel, char* sentence, std::int64_t room) {
  return engine::said(sentence, room, [&] { engine::compute(*call, *parallel); });
}
