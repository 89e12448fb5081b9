// How maps and fields lie in memory, and outputs in the layout that involution/memory_layout.py promises for them.
#pragma once

#include <cstring>
#include <vector>

#include "contract_check.h"

namespace operators {

// Whether the channels of a map (B, C, ...) lie together in memory, pixel after pixel.
inline bool channels_last(const Tensor& map) {
  if (map.dims < 3 || map.step[1] != 1) return false;
  i64 extent = map.size[1];
  for (i64 d = map.dims - 1; d > 1; d--) {
    if (map.step[d] < extent) return false;
    extent = map.step[d] * map.size[d];
  }
  return true;
}

// Whether the G·K·K weights of one pixel of a field (B, G, K..., H'...) lie together in memory.
inline bool field_channels_last(const Tensor& field) {
  const i64 dims = (field.dims - 2) / 2;
  if (field.step[1 + dims] != 1) return false;
  i64 extent = 1;
  auto follows = [&](i64 d) {
    const bool fits = field.step[d] >= extent;
    extent = field.step[d] * field.size[d];
    return fits;
  };
  for (i64 d = 1 + dims; d > 0; d--) {
    if (!follows(d)) return false;
  }
  for (i64 d = field.dims - 1; d > 1 + dims; d--) {
    if (!follows(d)) return false;
  }
  return true;
}

// The numbers of a vector, or of the matrix of a 1×1 convolution, one after the other in memory.
class Packed {
 public:
  const void* of(const Tensor& tensor) {
    if (!tensor) return nullptr;
    const i64 columns = tensor.dims > 1 ? tensor.size[1] : 1, bytes = bytes_of(tensor.dtype);
    const i64 row_step = tensor.step[0], column_step = tensor.dims > 1 ? tensor.step[1] : 1;
    if ((column_step == 1 || columns == 1) && (row_step == columns || tensor.size[0] == 1)) return tensor.data;
    room_.resize(std::size_t(tensor.size[0] * columns * bytes));
    const char* from = static_cast<const char*>(tensor.data);
    for (i64 i = 0; i < tensor.size[0]; i++) {
      for (i64 j = 0; j < columns; j++) {
        std::memcpy(&room_[std::size_t((i * columns + j) * bytes)], from + (i * row_step + j * column_step) * bytes, std::size_t(bytes));
      }
    }
    return room_.data();
  }

 private:
  std::vector<char> room_;
};

// A result: allocated here, given away at the end of a call that succeeded.
class Output {
 public:
  Tensor tensor;

  Output(const Output&) = delete;
  Output(Output&& other) noexcept : tensor(other.tensor) { other.tensor.handle = nullptr; }
  ~Output() {
    if (tensor.handle) torch.aoti_torch_delete_tensor_object(tensor.handle);
  }

  // A map (B, C, ...) beside another one, on a grid of its own.
  static Output map(const Tensor& like, const i64* grid, bool last) {
    i64 size[kDims], order[kDims];
    size[0] = like.size[0];
    size[1] = like.size[1];
    for (i64 d = 2; d < like.dims; d++) size[d] = grid[d - 2];
    i64 n = 0;
    order[n++] = 0;
    if (!last) order[n++] = 1;
    for (i64 d = 2; d < like.dims; d++) order[n++] = d;
    if (last) order[n++] = 1;
    return Output(like.dtype, like.dims, size, order);
  }

  // A field (B, G, K..., H'...) for a map.
  static Output field(const Tensor& map, i64 groups, const Window& window, const i64* grid, bool last) {
    const i64 dims = window.dims;
    i64 size[kDims], order[kDims];
    size[0] = map.size[0];
    size[1] = groups;
    for (i64 d = 0; d < dims; d++) {
      size[2 + d] = window.taps.at[d];
      size[2 + dims + d] = grid[d];
    }
    i64 n = 0;
    order[n++] = 0;
    for (i64 d = 0; last && d < dims; d++) order[n++] = 2 + dims + d;
    for (i64 d = 1; d < 2 + dims; d++) order[n++] = d;
    for (i64 d = 0; !last && d < dims; d++) order[n++] = 2 + dims + d;
    return Output(map.dtype, 2 + 2 * dims, size, order);
  }

  // One value per row of a matrix.
  static Output vector(const Tensor& matrix) {
    const i64 order[1] = {0};
    return Output(matrix.dtype, 1, matrix.size, order);
  }

  void clear() {
    const i64 bytes = tensor.values() * bytes_of(tensor.dtype);
    if (bytes) std::memset(tensor.data, 0, std::size_t(bytes));
  }

  Value release() {
    const auto handle = reinterpret_cast<Value>(tensor.handle);
    tensor.handle = nullptr;
    return handle;
  }

 private:
  // `order` names the dimensions as they lie in memory, the outermost first.
  Output(int dtype, i64 dims, const i64* size, const i64* order) {
    i64 step[kDims], extent = 1;
    for (i64 n = dims - 1; n >= 0; n--) {
      step[order[n]] = extent;
      extent *= size[order[n]] > 1 ? size[order[n]] : 1;
    }
    Object handle = nullptr;
    must(torch.aoti_torch_empty_strided(dims, size, step, code_of(dtype), torch.aoti_torch_device_type_cpu(), 0, &handle),
         "allocate the result");
    tensor = describe(handle);
  }
};

}  // namespace operators
