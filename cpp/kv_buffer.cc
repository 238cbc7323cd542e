#include "kv_buffer.h"

#include <cstring>

namespace tokloom {
namespace {

void write(Storage storage, const float* from, std::size_t rows, std::size_t width, char* to, float* scales) {
  switch (storage) {
    case Storage::f32:
      std::memcpy(to, from, rows * width * sizeof(float));
      break;
    case Storage::bf16:
      round_slots(from, 1, rows, width, reinterpret_cast<std::uint16_t*>(to), 0);
      break;
    case Storage::int8:
      quantize_slots(from, 1, rows, width, reinterpret_cast<std::int8_t*>(to), 0, scales, 0);
      break;
    case Storage::int4:
      quantize_groups(from, 1, rows, width, reinterpret_cast<std::uint8_t*>(to), 0);
      break;
  }
}

}  // namespace

void KVBuffer::append(const float* new_keys, const float* new_values, std::size_t head_stride,
                      const std::int32_t* row_positions, std::size_t rows, std::size_t start) const {
  const std::size_t bytes = row_bytes(storage, head_dim);
  for (std::size_t head = 0; head < kv_heads; ++head) {
    const auto place = static_cast<std::size_t>(bases[head] + static_cast<std::int64_t>(start));
    write(storage, new_keys + head * head_stride, rows, head_dim, static_cast<char*>(keys) + place * bytes,
          key_scales ? key_scales + place : nullptr);
    write(storage, new_values + head * head_stride, rows, head_dim, static_cast<char*>(values) + place * bytes,
          value_scales ? value_scales + place : nullptr);
    std::memcpy(positions + head * capacity + start, row_positions, rows * sizeof(std::int32_t));
  }
}

}  // namespace tokloom
