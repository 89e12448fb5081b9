// The arguments of an operator as PyTorch hands them over, read and given back.
#pragma once

#include <stdexcept>
#include <string>

#include "problem.h"
#include "torch_abi.h"

namespace operators {

using i64 = std::int64_t;
using torch_abi::Object;
using torch_abi::Value;

// Filled when the operators are registered, before any of them can be called.
inline torch_abi::Functions torch;

// No tensor here has more dimensions, no operator more tensors.
constexpr int kDims = 8;

struct Tensor {
  Object handle = nullptr;
  i64 dims = 0;
  const i64* size = nullptr;
  const i64* step = nullptr;
  void* data = nullptr;
  int dtype = -1;  // an InvolutionDtype, -1 for any other
  bool dense = false;  // strided memory of the CPU

  explicit operator bool() const { return handle; }

  i64 values() const {
    i64 n = 1;
    for (i64 i = 0; i < dims; i++) n *= size[i];
    return n;
  }
};

inline void must(std::int32_t failed, const char* what) {
  if (failed) throw std::runtime_error(std::string("involution: PyTorch refused to ") + what);
}

inline int dtype_of(std::int32_t code) {
  static const std::int32_t codes[] = {torch.aoti_torch_dtype_float32(), torch.aoti_torch_dtype_float64(),
                                       torch.aoti_torch_dtype_bfloat16(), torch.aoti_torch_dtype_float16()};
  for (int i = 0; i < 4; i++) {
    if (codes[i] == code) return i;
  }
  return -1;
}

inline std::int32_t code_of(int dtype) {
  return dtype == kFloat32    ? torch.aoti_torch_dtype_float32()
         : dtype == kFloat64  ? torch.aoti_torch_dtype_float64()
         : dtype == kBFloat16 ? torch.aoti_torch_dtype_bfloat16()
                              : torch.aoti_torch_dtype_float16();
}

inline Tensor describe(Object handle) {
  Tensor t;
  t.handle = handle;
  std::int32_t dtype, layout, device;
  i64 *size, *step;
  must(torch.aoti_torch_get_dim(handle, &t.dims) | torch.aoti_torch_get_dtype(handle, &dtype) |
           torch.aoti_torch_get_layout(handle, &layout) | torch.aoti_torch_get_device_type(handle, &device),
       "describe a tensor");
  t.dtype = dtype_of(dtype);
  t.dense = layout == torch.aoti_torch_layout_strided() && device == torch.aoti_torch_device_type_cpu();
  if (t.dense) {
    must(torch.aoti_torch_get_sizes(handle, &size) | torch.aoti_torch_get_strides(handle, &step) |
             torch.aoti_torch_get_data_ptr(handle, &t.data),
         "describe a tensor");
    t.size = size;
    t.step = step;
    if (!t.data && t.values() > 0) {
      throw std::runtime_error(
          "involution: the memory of a tensor was freed, as FSDP frees the weights of a module that has run; shard whole "
          "involution layers, by ModuleWrapPolicy({Involution2d}), not the parts of one");
    }
  }
  return t;
}

inline i64 bytes_of(int dtype) { return dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2; }

struct Numbers {
  i64 count = 0;
  i64 at[kDims] = {};  // no more than these are kept
};

// The arguments on the stack of a call, which belong to it: they are read in place, and given back when it is over.
class Arguments {
 public:
  explicit Arguments(Value* stack) : stack_(stack) {}
  Arguments(const Arguments&) = delete;
  ~Arguments() { give_back(); }

  Tensor tensor(int i) { return describe(keep(i, kTensor)); }

  // What is optional comes as the address of a Value, or as null.
  Tensor optional_tensor(int i) {
    const Object value = keep(i, kOptionalTensor);
    return value ? describe(reinterpret_cast<Object>(*static_cast<Value*>(value))) : Tensor{};
  }

  Numbers numbers(int i) {
    const Object list = keep(i, kList);
    std::size_t count = 0;
    Numbers read;
    std::int32_t failed = torch.torch_list_size(list, &count);
    read.count = i64(count);
    for (std::size_t n = 0; n < count && n < kDims; n++) {
      Value value = 0;
      failed |= torch.torch_list_get_item(list, n, &value);
      read.at[n] = i64(value);
    }
    must(failed, "read a list");
    return read;
  }

  const char* text(int i) {
    const char* characters = nullptr;
    must(torch.torch_string_c_str(keep(i, kText), &characters), "read a string");
    return characters;
  }

  i64 number(int i) const { return i64(stack_[i]); }
  bool flag(int i) const { return (stack_[i] & 0xff) != 0; }

  // Leave all arguments to another call, which takes the stack as it is.
  Value* hand_on() {
    count_ = 0;
    return stack_;
  }

  // Results take the place of the arguments, which have been read by then.
  void result(int i, Value value) { results_[i] = value, results_given_ = i + 1; }
  void finish() {
    give_back();
    for (int i = 0; i < results_given_; i++) stack_[i] = results_[i];
  }

 private:
  enum Kind { kTensor, kOptionalTensor, kList, kText };
  struct Read {
    Kind kind;
    Object object;
  };

  Object keep(int i, Kind kind) {
    const auto object = reinterpret_cast<Object>(stack_[i]);
    read_[count_++] = {kind, object};
    return object;
  }

  void give_back() {
    for (int i = 0; i < count_; i++) give_back(read_[i]);
    count_ = 0;
  }

  static void give_back(const Read& read) {
    if (!read.object) return;
    if (read.kind == kTensor) {
      torch.aoti_torch_delete_tensor_object(read.object);
    } else if (read.kind == kList) {
      torch.torch_delete_list(read.object);
    } else if (read.kind == kText) {
      torch.torch_delete_string(read.object);
    } else {
      auto* value = static_cast<Value*>(read.object);
      torch.aoti_torch_delete_tensor_object(reinterpret_cast<Object>(*value));
      if (torch.torch_delete_stable_ivalue) {
        torch.torch_delete_stable_ivalue(value);
      } else {
        delete value;
      }
    }
  }

  Value* stack_;
  Read read_[2 * kDims];
  int count_ = 0;
  Value results_[kDims];
  int results_given_ = 0;
};

}  // namespace operators
