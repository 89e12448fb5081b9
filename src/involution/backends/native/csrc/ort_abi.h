// ONNX Runtime's C interface as far as a library of operators needs it, so that none of its headers is needed to compile
// this. OrtApi is a table of functions that only grows at its end: a function keeps its place in all later versions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace ort_abi {

// ORT_API_VERSION of the places and structures below: that of ONNX Runtime 1.17, the first that lets an operator refuse
// by a status and run on the session's threads.
constexpr std::uint32_t kVersion = 17;

// Null means success; whoever gets one owns it.
struct Status;
struct SessionOptions;
struct Domain;
struct KernelInfo;
struct Context;
struct Value;
struct Shape;

enum StatusCode { kInvalidArgument = 2, kRuntimeException = 6 };
enum ElementType { kFloat = 1, kFloat16 = 10, kDouble = 11, kBFloat16 = 16 };
enum Characteristic { kRequired = 0, kOptional = 1 };

// Place in the table, type of the result, name, parameters.
#define INVOLUTION_ORT_FUNCTIONS(X)                                                                              \
  X(0, Status*, CreateStatus, (int code, const char* message))                                                   \
  X(26, Status*, CreateCustomOpDomain, (const char* name, Domain** domain))                                      \
  X(27, Status*, CustomOpDomain_Add, (Domain * domain, const struct CustomOp* op))                               \
  X(28, Status*, AddCustomOpDomain, (SessionOptions * options, Domain * domain))                                 \
  X(51, Status*, GetTensorMutableData, (Value * value, void** data))                                             \
  X(61, Status*, GetDimensionsCount, (const Shape* shape, std::size_t* count))                                   \
  X(62, Status*, GetDimensions, (const Shape* shape, std::int64_t* sizes, std::size_t count))                    \
  X(65, Status*, GetTensorTypeAndShape, (const Value* value, Shape** shape))                                     \
  X(86, Status*, KernelInfoGetAttribute_int64, (const KernelInfo* info, const char* name, std::int64_t* number)) \
  X(88, Status*, KernelContext_GetInputCount, (const Context* context, std::size_t* count))                      \
  X(90, Status*, KernelContext_GetInput, (const Context* context, std::size_t index, Value** value))             \
  X(91, Status*, KernelContext_GetOutput,                                                                        \
    (Context * context, std::size_t index, const std::int64_t* sizes, std::size_t dims, Value** value))          \
  X(93, void, ReleaseStatus, (Status * status))                                                                  \
  X(99, void, ReleaseTensorTypeAndShapeInfo, (Shape * shape))                                                    \
  X(163, Status*, KernelInfoGetAttributeArray_int64,                                                             \
    (const KernelInfo* info, const char* name, std::int64_t* numbers, std::size_t* count))                       \
  X(274, Status*, KernelContext_ParallelFor,                                                                     \
    (const Context* context, void (*run)(void* task, std::size_t i), std::size_t count, std::size_t batches, void* task))

using Table = void (*const*)();

struct Api {
#define INVOLUTION_MEMBER(place, result, name, parameters) result(*name) parameters;
  INVOLUTION_ORT_FUNCTIONS(INVOLUTION_MEMBER)
#undef INVOLUTION_MEMBER

  explicit Api(Table table) {
#define INVOLUTION_FIND(place, result, name, parameters) name = reinterpret_cast<decltype(name)>(table[place]);
    INVOLUTION_ORT_FUNCTIONS(INVOLUTION_FIND)
#undef INVOLUTION_FIND
  }
};

struct ApiBase {
  Table (*GetApi)(std::uint32_t version);
  const char* (*GetVersionString)();
};

// What describes an operator to ONNX Runtime; `version` says how much of it is there.
struct CustomOp {
  std::uint32_t version;
  void* (*CreateKernel)(const CustomOp*, Table, const KernelInfo*);
  const char* (*GetName)(const CustomOp*);
  const char* (*GetExecutionProviderType)(const CustomOp*);
  int (*GetInputType)(const CustomOp*, std::size_t index);
  std::size_t (*GetInputTypeCount)(const CustomOp*);
  int (*GetOutputType)(const CustomOp*, std::size_t index);
  std::size_t (*GetOutputTypeCount)(const CustomOp*);
  void (*KernelCompute)(void* kernel, Context* context);
  void (*KernelDestroy)(void* kernel);
  int (*GetInputCharacteristic)(const CustomOp*, std::size_t index);
  int (*GetOutputCharacteristic)(const CustomOp*, std::size_t index);
  int (*GetInputMemoryType)(const CustomOp*, std::size_t index);
  int (*GetVariadicInputMinArity)(const CustomOp*);
  int (*GetVariadicInputHomogeneity)(const CustomOp*);
  int (*GetVariadicOutputMinArity)(const CustomOp*);
  int (*GetVariadicOutputHomogeneity)(const CustomOp*);
  Status* (*CreateKernelV2)(const CustomOp*, Table, const KernelInfo*, void** kernel);
  Status* (*KernelComputeV2)(void* kernel, Context* context);
  Status* (*InferOutputShapeFn)(const CustomOp*, void* context);
  int (*GetStartVersion)(const CustomOp*);
  int (*GetEndVersion)(const CustomOp*);
  // Of version 18, which is not said to be there: pieces that may be computed in place.
  void* later[4];
};

}  // namespace ort_abi
