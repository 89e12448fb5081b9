// The operators of the CPU, registered with PyTorch: arguments in, output allocated, kernel called. What they compute,
// their derivatives and their shapes for tracing are given in Python, in involution/operators.
#include <atomic>
#include <cstring>
#include <new>
#include <string>

#include "contract_check.h"
#include "dispatch.h"
#include "layouts.h"

#if !defined(_WIN32)
#include <pthread.h>
#endif

namespace operators {
namespace {

// Whether "auto" means these kernels; if not, Python chooses.
std::atomic<bool> serves_auto{true};
// Whether Python is there to hand calls on to.
std::atomic<bool> python{false};
// A forked child has none of its parent's OpenMP threads, and waiting for them would never end.
std::atomic<bool> forked{false};

constexpr char kLetters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

InvolutionParallel torchs_threads() {
  std::uint32_t n = 1;
  if (!forked.load(std::memory_order_relaxed)) torch.torch_get_num_threads(&n);
  return {n, nullptr, nullptr};
}

template <class F>
void run(F&& kernel) {
  try {
    kernel(kernels());
  } catch (const std::bad_alloc&) {
    throw std::runtime_error(
        "the native backend could not allocate its scratch memory of a few hundred KiB per thread");
  }
}

// The sentence of a Python exception, without its class and without the stack that follows.
std::string sentence_of(std::string what) {
  what = what.substr(0, what.find("\n\nAt:\n"));
  const std::size_t colon = what.find(": ");
  const bool is_class = colon != std::string::npos && what.find_first_not_of(kLetters) == colon;
  return is_class ? what.substr(colon + 2) : what;
}

InvolutionProblem problem_of(const Tensor& x, const Tensor& y, i64 groups, const Window& window) {
  return problem_of(x.dtype, groups, window.shape(), {x.size, x.step}, {y.size, y.step});
}

void contract(InvolutionOperator op, const Tensor& x, const Tensor& field, const Tensor& y, i64 groups, const Window& window) {
  InvolutionProblem p = problem_of(x, y, groups, window);
  add_field(p, field.step, window.dims);
  run([&](const InvolutionKernels& k) { k.contract(op, p, x.data, field.data, y.data, torchs_threads()); });
}

// Y[b, c, i, j] = Σ_{u,v} H[b, ⌊cG/C⌋, u, v, i, j] · X[b, c, s·i + d·u − p, s·j + d·v − p]
void forward(Arguments& arguments) {
  const Tensor x = arguments.tensor(0), h = arguments.tensor(1);
  const Numbers stride = arguments.numbers(2), padding = arguments.numbers(3), dilation = arguments.numbers(4);
  const Window window = window_of(x, h, stride, padding, dilation);
  check_together(x, h);
  check_groups(x.size[1], h.size[1]);
  window.check_grid(x.size + 2, h.size + 2 + window.dims);
  Output y = Output::map(x, h.size + 2 + window.dims, channels_last(x));
  if (y.tensor.values()) contract(kForward, x, h, y.tensor, h.size[1], window);
  arguments.result(0, y.release());
}

void input_gradient(Arguments& arguments) {
  const Tensor dy = arguments.tensor(0), h = arguments.tensor(1);
  const Numbers size = arguments.numbers(2);
  const Numbers stride = arguments.numbers(3), padding = arguments.numbers(4), dilation = arguments.numbers(5);
  const Window window = window_of(dy, h, stride, padding, dilation);
  check_together(dy, h);
  check_groups(dy.size[1], h.size[1]);
  demand(size.count == window.dims && same(h.size + 2 + window.dims, dy.size + 2, window.dims));
  window.check_grid(size.at, dy.size + 2);
  Output dx = Output::map(dy, size.at, channels_last(dy) || field_channels_last(h));
  if (dx.tensor.values()) contract(kInputGradient, dx.tensor, h, dy, h.size[1], window);
  arguments.result(0, dx.release());
}

void kernel_gradient(Arguments& arguments) {
  const Tensor dy = arguments.tensor(0), x = arguments.tensor(1);
  const i64 groups = arguments.number(2);
  const Numbers taps = arguments.numbers(3), stride = arguments.numbers(4), padding = arguments.numbers(5);
  const Window window{taps.count, taps, stride, padding, arguments.numbers(6)};
  window.check();
  check_map(dy, window);
  check_map(x, window);
  check_together(dy, x);
  demand(dy.size[1] == x.size[1]);
  check_groups(x.size[1], groups);
  window.check_grid(x.size + 2, dy.size + 2);
  Output dh = Output::field(x, groups, window, dy.size + 2, channels_last(dy) || channels_last(x));
  if (dh.tensor.values()) contract(kKernelGradient, x, dh.tensor, dy, groups, window);
  arguments.result(0, dh.release());
}

// A field that is weight · hidden + bias, and nowhere in memory.
struct SpanArguments {
  Tensor value, hidden, weight, bias;
  i64 groups;
  Window window;

  // `at` is the place of the value on the stack.
  SpanArguments(Arguments& arguments, int at)
      : value(arguments.tensor(at)),
        hidden(arguments.tensor(at + 1)),
        weight(arguments.tensor(at + 2)),
        bias(arguments.optional_tensor(at + 3)),
        groups(arguments.number(at + 4)) {
    window.taps = arguments.numbers(at + 5);
    window.stride = arguments.numbers(at + 6);
    window.padding = arguments.numbers(at + 7);
    window.dilation = arguments.numbers(at + 8);
    window.dims = window.taps.count;
  }

  void check() const {
    window.check();
    check_map(value, window);
    check_map(hidden, window);
    check_together(value, hidden);
    check_groups(value.size[1], groups);
    demand(weight.dense && weight.dims == window.dims + 2 && weight.dtype == value.dtype && weight.size[1] == hidden.size[1]);
    // Wide, and compared at every step: hostile numbers overflow.
    __int128 rows = groups;
    for (i64 d = 0; d < window.dims; d++) {
      rows *= window.taps.at[d];
      demand(rows <= weight.size[0] && weight.size[2 + d] == 1);
    }
    demand(rows == weight.size[0]);
    check_parameter(bias, value, weight.size[0]);
    window.check_grid(value.size + 2, hidden.size + 2);
  }

  InvolutionSpan span(Packed& weights, Packed& biases) const {
    InvolutionSpan s{};
    s.hidden = hidden.data;
    s.weight = weights.of(weight);
    s.bias = biases.of(bias);
    s.channels = hidden.size[1];
    map_steps(hidden.step, window.dims, s.h);
    return s;
  }
};

void forward_of_span(Arguments& arguments) {
  const SpanArguments a(arguments, 0);
  const Tensor scale = arguments.optional_tensor(10), offset = arguments.optional_tensor(11);
  a.check();
  check_parameter(scale, a.value, a.value.size[1]);
  check_parameter(offset, a.value, a.value.size[1]);
  Output y = Output::map(a.value, a.hidden.size + 2, channels_last(a.value));
  if (y.tensor.values()) {
    Packed weights, biases, scales, offsets;
    InvolutionSpan span = a.span(weights, biases);
    span.epilogue = {scales.of(scale), offsets.of(offset), arguments.flag(12)};
    const InvolutionProblem p = problem_of(a.value, y.tensor, a.groups, a.window);
    run([&](const InvolutionKernels& k) { k.span_and_contract(p, a.value.data, span, y.tensor.data, torchs_threads()); });
  }
  arguments.result(0, y.release());
}

void gradients_of_span(Arguments& arguments) {
  const Tensor dy = arguments.tensor(0);
  const SpanArguments a(arguments, 1);
  a.check();
  check_together(dy, a.value);
  demand(dy.dims == a.value.dims && dy.size[1] == a.value.size[1] && same(dy.size + 2, a.hidden.size + 2, a.window.dims));
  Output dvalue = Output::map(a.value, a.value.size + 2, channels_last(a.value));
  Output dhidden = Output::map(a.hidden, a.hidden.size + 2, true);
  Output dweight = Output::map(a.weight, a.weight.size + 2, channels_last(a.weight));
  Output dbias = Output::vector(a.weight);
  if (dy.values()) {
    Packed weights, biases;
    const InvolutionSpan span = a.span(weights, biases);
    InvolutionSpanGradients to{dvalue.tensor.data, dhidden.tensor.data, dweight.tensor.data, dbias.tensor.data, {}, {}};
    map_steps(dvalue.tensor.step, a.window.dims, to.x);
    map_steps(dhidden.tensor.step, a.window.dims, to.h);
    const InvolutionProblem p = problem_of(a.value, dy, a.groups, a.window);
    run([&](const InvolutionKernels& k) { k.span_gradients(p, a.value.data, dy.data, span, to, torchs_threads()); });
  } else {
    for (Output* gradient : {&dvalue, &dhidden, &dweight, &dbias}) gradient->clear();
  }
  arguments.result(0, dvalue.release());
  arguments.result(1, dhidden.release());
  arguments.result(2, dweight.release());
  arguments.result(3, dbias.release());
}

#define INVOLUTION_WINDOW "SymInt[] stride, SymInt[] padding, SymInt[] dilation, str backend"
#define INVOLUTION_SPAN \
  "Tensor value, Tensor hidden, Tensor weight, Tensor? bias, SymInt groups, SymInt[] kernel_size, " INVOLUTION_WINDOW

struct Operator {
  const char* name;
  const char* schema;
  int backend;  // the place of the backend's name among the arguments
  void (*body)(Arguments&);
  torch_abi::Kernel kernel;
};

template <int I>
void serve(Value* stack, std::uint64_t, std::uint64_t);

// The schemas are those of involution/operators; a test compares them.
const Operator kOperators[] = {
    {"forward", "(Tensor input, Tensor kernel, " INVOLUTION_WINDOW ") -> Tensor", 5, forward, serve<0>},
    {"input_gradient", "(Tensor grad_output, Tensor kernel, SymInt[] input_size, " INVOLUTION_WINDOW ") -> Tensor",
     6, input_gradient, serve<1>},
    {"kernel_gradient",
     "(Tensor grad_output, Tensor input, SymInt groups, SymInt[] kernel_size, " INVOLUTION_WINDOW ") -> Tensor",
     7, kernel_gradient, serve<2>},
    {"forward_of_span", "(" INVOLUTION_SPAN ", Tensor? scale=None, Tensor? offset=None, bool relu=False) -> Tensor",
     9, forward_of_span, serve<3>},
    {"gradients_of_span", "(Tensor grad_output, " INVOLUTION_SPAN ") -> (Tensor, Tensor, Tensor, Tensor)",
     10, gradients_of_span, serve<4>},
};
constexpr int kOperatorCount = sizeof(kOperators) / sizeof(kOperators[0]);

// Let Python serve a call: by another backend, or by the sentence that says what does not fit.
void hand_on(const Operator& op, Arguments& arguments) {
  const std::string name = std::string("involution::") + op.name;
  if (!python.load(std::memory_order_relaxed)) {
    throw std::runtime_error(name +
                             ": the arguments do not fit one another; the tensors must be dense, of the CPU, of one "
                             "floating dtype and of the sizes of the schema, the backend 'auto' or 'native'");
  }
  if (torch.torch_call_dispatcher((name + "_in_python").c_str(), "", arguments.hand_on(), torch_abi::kVersion)) {
    const auto what = torch.torch_exception_get_what_without_backtrace;
    throw std::runtime_error(what ? sentence_of(what()) : "involution: the call failed; PyTorch's log above says why");
  }
}

template <int I>
void serve(Value* stack, std::uint64_t, std::uint64_t) {
  const Operator& op = kOperators[I];
  Arguments arguments(stack);
  const char* backend = arguments.text(op.backend);
  if (std::strcmp(backend, "native") && (std::strcmp(backend, "auto") || !serves_auto.load(std::memory_order_relaxed))) {
    return hand_on(op, arguments);
  }
  try {
    op.body(arguments);
  } catch (const Misfit&) {
    return hand_on(op, arguments);
  }
  arguments.finish();
}

}  // namespace
}  // namespace operators

// Whether "auto" means these kernels for tensors of the CPU.
INVOLUTION_EXPORT void involution_serve_auto(int serve) { operators::serves_auto = serve != 0; }

INVOLUTION_EXPORT int involution_operator_count() { return operators::kOperatorCount; }
INVOLUTION_EXPORT const char* involution_operator_name(int i) { return operators::kOperators[i].name; }
INVOLUTION_EXPORT const char* involution_operator_schema(int i) { return operators::kOperators[i].schema; }

// Register the operators with the libtorch that is loaded, once in a process: null, or what is missing there. A program
// without Python gives null for the path and has the schemas defined; Python defines them itself.
INVOLUTION_EXPORT const char* involution_register_operators(const char* libtorch_cpu, int define) {
  if (const char* missing = operators::torch.find(libtorch_cpu)) return missing;
  const auto& torch = operators::torch;
#if !defined(_WIN32)
  pthread_atfork(nullptr, nullptr, [] { operators::forked = true; });
#endif
  operators::python = !define;
  // They live as long as the process.
  torch_abi::Object library = nullptr;
  if (define) {
    if (torch.aoti_torch_library_init_fragment("involution", __FILE__, __LINE__, &library)) return "the library involution";
    for (const auto& op : operators::kOperators) {
      if (torch.aoti_torch_library_def(library, (std::string(op.name) + op.schema).c_str())) return op.name;
    }
  }
  if (torch.aoti_torch_library_init_impl("involution", "CPU", __FILE__, __LINE__, &library)) return "the key CPU";
  for (const auto& op : operators::kOperators) {
    if (torch.torch_library_impl(library, op.name, op.kernel, torch_abi::kVersion)) return op.name;
  }
  return nullptr;
}
