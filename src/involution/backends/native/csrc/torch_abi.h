// PyTorch's C functions (its stable ABI), looked up in the libtorch that the process has loaded. No header of torch is
// needed to compile this, and one build serves every version of torch from 2.11 on.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#define NOMINMAX
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace torch_abi {

// One argument or result of an operator: an integer, or the address of something that the receiver owns.
using Value = std::uint64_t;
using Object = void*;
using Kernel = void (*)(Value* stack, std::uint64_t arguments, std::uint64_t results);

// The conventions for Value that are kept here; later versions of torch know them.
constexpr std::uint64_t kVersion = std::uint64_t(2) << 56 | std::uint64_t(11) << 48;

// Name and parameters; all return 0 when they succeeded, but for the two at the end.
#define INVOLUTION_TORCH_FUNCTIONS(X)                                                                             \
  X(aoti_torch_library_init_fragment, (const char* name, const char* file, std::uint32_t line, Object* library))  \
  X(aoti_torch_library_init_impl,                                                                                 \
    (const char* name, const char* key, const char* file, std::uint32_t line, Object* library))                   \
  X(aoti_torch_library_def, (Object library, const char* schema))                                                 \
  X(torch_library_impl, (Object library, const char* name, Kernel kernel, std::uint64_t version))                 \
  X(torch_call_dispatcher, (const char* name, const char* overload, Value* stack, std::uint64_t version))         \
  X(aoti_torch_get_dim, (Object tensor, std::int64_t* dims))                                                      \
  X(aoti_torch_get_sizes, (Object tensor, std::int64_t** sizes))                                                  \
  X(aoti_torch_get_strides, (Object tensor, std::int64_t** strides))                                              \
  X(aoti_torch_get_dtype, (Object tensor, std::int32_t* dtype))                                                   \
  X(aoti_torch_get_layout, (Object tensor, std::int32_t* layout))                                                 \
  X(aoti_torch_get_device_type, (Object tensor, std::int32_t* type))                                              \
  X(aoti_torch_get_data_ptr, (Object tensor, void** data))                                                        \
  X(aoti_torch_empty_strided,                                                                                     \
    (std::int64_t dims, const std::int64_t* sizes, const std::int64_t* strides, std::int32_t dtype,               \
     std::int32_t device, std::int32_t index, Object* tensor))                                                    \
  X(aoti_torch_delete_tensor_object, (Object tensor))                                                             \
  X(torch_list_size, (Object list, std::size_t* size))                                                            \
  X(torch_list_get_item, (Object list, std::size_t index, Value* item))                                           \
  X(torch_delete_list, (Object list))                                                                             \
  X(torch_string_c_str, (Object text, const char** characters))                                                   \
  X(torch_delete_string, (Object text))                                                                           \
  X(torch_get_num_threads, (std::uint32_t* threads))                                                              \
  X(aoti_torch_dtype_float32, ())                                                                                 \
  X(aoti_torch_dtype_float64, ())                                                                                 \
  X(aoti_torch_dtype_bfloat16, ())                                                                                \
  X(aoti_torch_dtype_float16, ())                                                                                 \
  X(aoti_torch_layout_strided, ())                                                                                \
  X(aoti_torch_device_type_cpu, ())

struct Functions {
#define INVOLUTION_MEMBER(name, parameters) std::int32_t(*name) parameters;
  INVOLUTION_TORCH_FUNCTIONS(INVOLUTION_MEMBER)
#undef INVOLUTION_MEMBER
  // Of torch 2.13 and later, null before.
  const char* (*torch_exception_get_what_without_backtrace)();
  std::int32_t (*torch_delete_stable_ivalue)(Value* value);

  // Return the first name that is missing in the loaded library of this path (null: the one of the usual name), a null
  // pointer if all were found.
  const char* find(const char* path) {
#if defined(_WIN32)
    HMODULE library = GetModuleHandleA(path ? path : "torch_cpu.dll");
    auto symbol = [&](const char* name) { return library ? reinterpret_cast<void*>(GetProcAddress(library, name)) : nullptr; };
#else
#if defined(__APPLE__)
    const char* usual = "libtorch_cpu.dylib";
#else
    const char* usual = "libtorch_cpu.so";
#endif
    void* library = dlopen(path ? path : usual, RTLD_LAZY | RTLD_NOLOAD);
    auto symbol = [&](const char* name) { return library ? dlsym(library, name) : nullptr; };
#endif
    if (!library) return "libtorch_cpu itself";
#define INVOLUTION_FIND(name, parameters)                          \
  name = reinterpret_cast<decltype(name)>(symbol(#name));          \
  if (!name) return #name;
    INVOLUTION_TORCH_FUNCTIONS(INVOLUTION_FIND)
#undef INVOLUTION_FIND
    torch_exception_get_what_without_backtrace = reinterpret_cast<decltype(torch_exception_get_what_without_backtrace)>(
        symbol("torch_exception_get_what_without_backtrace"));
    torch_delete_stable_ivalue =
        reinterpret_cast<decltype(torch_delete_stable_ivalue)>(symbol("torch_delete_stable_ivalue"));
    return nullptr;
  }
};

}  // namespace torch_abi
