// The operators for ONNX Runtime: SessionOptions.register_custom_ops_library takes this library. They run on the threads of
// the session, any number of sessions and of calls at a time.
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "engine.h"
#include "ort_abi.h"

namespace {

using i64 = std::int64_t;
using ort_abi::Api;
using ort_abi::Context;
using ort_abi::CustomOp;
using ort_abi::KernelInfo;
using ort_abi::Status;
using ort_abi::Table;

constexpr char kDomain[] = "involution";

// What ONNX Runtime itself refused; it goes back as it came.
struct Failed {
  Status* status;
};

void must(Status* status) {
  if (status) throw Failed{status};
}

// Runs what throws, for a caller that wants a status.
template <class F>
Status* said(const Api& api, F&& function) {
  try {
    function();
    return nullptr;
  } catch (const Failed& failed) {
    return failed.status;
  } catch (const engine::Refusal& refusal) {
    return api.CreateStatus(ort_abi::kInvalidArgument, refusal.what());
  } catch (const std::bad_alloc&) {
    return api.CreateStatus(ort_abi::kRuntimeException,
                            "involution: scratch memory of a few hundred KiB per thread could not be allocated; free some memory");
  } catch (const std::exception& error) {
    return api.CreateStatus(ort_abi::kRuntimeException, error.what());
  }
}

// One operator for one type of numbers; ONNX Runtime takes those of one name together.
struct Op : CustomOp {
  int op;
  InvolutionDtype dtype;
  ort_abi::ElementType type;

  const engine::Operator& described() const { return engine::kOperators[op]; }
};

const Op& op_of(const CustomOp* op) { return *static_cast<const Op*>(op); }

// A node of a session: its attributes, which were checked when the session was made.
struct Kernel {
  Api api;
  InvolutionCall call;

  Kernel(Table table, const Op& op, const KernelInfo* info) : api(table), call{} {
    call.op = op.op;
    call.dtype = op.dtype;
    if (op.op != kInvolutionOfField) {
      call.kernel_size = numbers(info, "kernel_size");
      call.groups = number(info, "groups", true);
    }
    call.stride = numbers(info, "stride");
    call.padding = numbers(info, "padding");
    call.dilation = numbers(info, "dilation");
    if (op.op == kInvolution) call.relu = number(info, "relu", false);
    engine::check(call);
  }

  // False where the attribute is missing or has another type.
  bool read(Status* status) const {
    if (status) api.ReleaseStatus(status);
    return !status;
  }

  [[noreturn]] void refuse(const char* name, const char* type) const {
    throw engine::Refusal(std::string("involution::") + engine::kOperators[call.op].name + ": the attribute " + name +
                          " is missing or no " + type + "; write the file again with involution.export.to_onnx");
  }

  i64 number(const KernelInfo* info, const char* name, bool required) const {
    i64 found = 0;
    if (!read(api.KernelInfoGetAttribute_int64(info, name, &found)) && required) refuse(name, "integer");
    return found;
  }

  InvolutionNumbers numbers(const KernelInfo* info, const char* name) const {
    InvolutionNumbers found{};
    std::size_t count = 0;
    if (!read(api.KernelInfoGetAttributeArray_int64(info, name, nullptr, &count))) refuse(name, "list of integers");
    found.count = i64(count);
    // What is longer is refused for its length.
    if (count >= 1 && count <= 3) must(api.KernelInfoGetAttributeArray_int64(info, name, found.at, &count));
    return found;
  }

  void compute(Context* context) const;
};

// The size of a tensor of the session.
struct Sizes {
  i64 at[kInvolutionDims];
};

InvolutionArray array_of(const Api& api, ort_abi::Value* value, Sizes& sizes) {
  const auto release = [&](ort_abi::Shape* shape) { api.ReleaseTensorTypeAndShapeInfo(shape); };
  ort_abi::Shape* shape = nullptr;
  must(api.GetTensorTypeAndShape(value, &shape));
  const std::unique_ptr<ort_abi::Shape, decltype(release)> owned(shape, release);
  std::size_t dims = 0;
  must(api.GetDimensionsCount(shape, &dims));
  // What has more dimensions is refused for their number.
  must(api.GetDimensions(shape, sizes.at, dims < kInvolutionDims ? dims : kInvolutionDims));
  void* data = nullptr;
  must(api.GetTensorMutableData(value, &data));
  return {data, i64(dims), sizes.at};
}

// The session's pool, as the kernels want it.
struct Pool {
  const Api& api;
  const Context* context;
};

struct Task {
  void (*body)(void* task, i64 i);
  void* task;
};

void run_in_pool(void* pool, i64 count, void (*body)(void* task, i64 i), void* task) {
  const Pool& p = *static_cast<Pool*>(pool);
  Task all{body, task};
  const auto one = [](void* t, std::size_t i) { static_cast<Task*>(t)->body(static_cast<Task*>(t)->task, i64(i)); };
  Status* failed = p.api.KernelContext_ParallelFor(p.context, one, std::size_t(count), 0, &all);
  if (!failed) return;
  // A box that was computed already gives the same again.
  p.api.ReleaseStatus(failed);
  for (i64 i = 0; i < count; i++) body(task, i);
}

// A session does not say how many threads it has, but no more than these can be of use.
i64 threads() {
  static const i64 found = std::thread::hardware_concurrency();
  return found > 1 ? found : 1;
}

void Kernel::compute(Context* context) const {
  InvolutionCall here = call;
  Sizes sizes[kInvolutionInputs];
  std::size_t given = 0;
  must(api.KernelContext_GetInputCount(context, &given));
  for (std::size_t i = 0; i < given && i < std::size_t(engine::kOperators[call.op].inputs); i++) {
    ort_abi::Value* value = nullptr;
    must(api.KernelContext_GetInput(context, i, &value));
    if (value) here.inputs[i] = array_of(api, value, sizes[i]);
  }
  engine::prepare(here);
  ort_abi::Value* output = nullptr;
  must(api.KernelContext_GetOutput(context, 0, here.output_size, std::size_t(here.output_dims), &output));
  if (!output) return;
  must(api.GetTensorMutableData(output, &here.output));
  Pool pool{api, context};
  engine::compute(here, {threads(), run_in_pool, &pool});
}

Op describe(int op, InvolutionDtype dtype, ort_abi::ElementType type) {
  Op o{};
  o.op = op;
  o.dtype = dtype;
  o.type = type;
  o.version = ort_abi::kVersion;
  o.GetName = [](const CustomOp* c) { return op_of(c).described().name; };
  o.GetExecutionProviderType = [](const CustomOp*) -> const char* { return nullptr; };
  o.GetInputType = [](const CustomOp* c, std::size_t) -> int { return op_of(c).type; };
  o.GetInputTypeCount = [](const CustomOp* c) { return std::size_t(op_of(c).described().inputs); };
  o.GetOutputType = [](const CustomOp* c, std::size_t) -> int { return op_of(c).type; };
  o.GetOutputTypeCount = [](const CustomOp*) -> std::size_t { return 1; };
  o.GetInputCharacteristic = [](const CustomOp* c, std::size_t i) -> int {
    return i < std::size_t(op_of(c).described().required) ? ort_abi::kRequired : ort_abi::kOptional;
  };
  o.GetOutputCharacteristic = [](const CustomOp*, std::size_t) -> int { return ort_abi::kRequired; };
  // That of the device, which is the CPU.
  o.GetInputMemoryType = [](const CustomOp*, std::size_t) { return 0; };
  o.GetVariadicInputMinArity = o.GetVariadicOutputMinArity = [](const CustomOp*) { return 0; };
  o.GetVariadicInputHomogeneity = o.GetVariadicOutputHomogeneity = [](const CustomOp*) { return 1; };
  o.CreateKernelV2 = [](const CustomOp* c, Table table, const KernelInfo* info, void** kernel) {
    return said(Api(table), [&] { *kernel = new Kernel(table, op_of(c), info); });
  };
  o.KernelComputeV2 = [](void* kernel, Context* context) {
    const auto* k = static_cast<const Kernel*>(kernel);
    return said(k->api, [&] { k->compute(context); });
  };
  o.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
  return o;
}

const Op kOps[] = {
#define INVOLUTION_OP(op)                                                                                  \
  describe(op, kFloat32, ort_abi::kFloat), describe(op, kFloat64, ort_abi::kDouble),                       \
      describe(op, ::kFloat16, ort_abi::kFloat16), describe(op, ::kBFloat16, ort_abi::kBFloat16)
    INVOLUTION_OP(kInvolution), INVOLUTION_OP(kInvolutionOfField), INVOLUTION_OP(kCorrelation)
#undef INVOLUTION_OP
};

// The domain with all operators, one for each ONNX Runtime in the process, as long as which it lives: sessions use it.
ort_abi::Domain* domain_of(Table table, const Api& api) {
  static std::mutex mutex;
  static auto& domains = *new std::map<Table, ort_abi::Domain*>;
  const std::lock_guard<std::mutex> lock(mutex);
  ort_abi::Domain*& domain = domains[table];
  if (!domain) {
    ort_abi::Domain* made = nullptr;
    must(api.CreateCustomOpDomain(kDomain, &made));
    for (const Op& op : kOps) must(api.CustomOpDomain_Add(made, &op));
    domain = made;
  }
  return domain;
}

}  // namespace

// ONNX Runtime calls this when the library is registered with the options of a session.
INVOLUTION_EXPORT Status* RegisterCustomOps(ort_abi::SessionOptions* options, const ort_abi::ApiBase* base) {
  const Table table = base->GetApi(ort_abi::kVersion);
  if (!table) {
    // Its table is shorter, but has what makes a status in the same place.
    const Table oldest = base->GetApi(1);
    const std::string what = std::string("involution: this is ONNX Runtime ") + base->GetVersionString() +
                             ", its operators need 1.17 or later; install a later one, or export with operator=\"standard\"";
    const auto create = oldest ? reinterpret_cast<decltype(Api::CreateStatus)>(oldest[0]) : nullptr;
    return create ? create(ort_abi::kRuntimeException, what.c_str()) : nullptr;
  }
  const Api api(table);
  return said(api, [&] { must(api.AddCustomOpDomain(options, domain_of(table, api))); });
}
