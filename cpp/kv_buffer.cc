#include "kv_buffer.h"

#include <cstring>

namespace tokloom {
namespace {

void write(const KVBuffer& buffer, const float* from, void* to, float* scales, std::size_t rows, std::size_t start) {
  const std::size_t width = buffer.head_dim, stride = buffer.capacity * width;
  switch (buffer.storage) {
    case Storage::f32:
      for (std::size_t head = 0; head < buffer.kv_heads; ++head)
        std::memcpy(static_cast<float*>(to) + head * stride + start * width, from + head * rows * width,
                    rows * width * sizeof(float));
      break;
    case Storage::bf16:
      round_slots(from, buffer.kv_heads, rows, width, static_cast<std::uint16_t*>(to) + start * width, stride);
      break;
    case Storage::int8:
      quantize_slots(from, buffer.kv_heads, rows, width, static_cast<std::int8_t*>(to) + start * width, stride,
                     scales + start, buffer.capacity);
      break;
  }
}

}  // namespace

void KVBuffer::append(const float* new_keys, const float* new_values, const std::int32_t* row_positions,
                      std::size_t rows, std::size_t start) const {
  write(*this, new_keys, keys, key_scales, rows, start);
  write(*this, new_values, values, value_scales, rows, start);
  for (std::size_t head = 0; head < kv_heads; ++head)
    std::memcpy(positions + head * capacity + start, row_positions, rows * sizeof(std::int32_t));
}

}  // namespace tokloom
