#include "attention/kv_buffer.h"

#include <cstring>
#include <vector>

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

// Rows less their centre, which is their mean if they are the first.
const float* centred(const float* rows, std::size_t count, std::size_t width, bool first, float* centre) {
  static thread_local std::vector<float> out;
  if (first) {
    for (std::size_t k = 0; k < width; ++k) {
      double sum = 0;
      for (std::size_t row = 0; row < count; ++row) sum += rows[row * width + k];
      centre[k] = static_cast<float>(sum / static_cast<double>(count));
    }
  }
  out.resize(count * width);
  for (std::size_t i = 0; i < count * width; ++i) out[i] = rows[i] - centre[i % width];
  return out.data();
}

}  // namespace

void KVBuffer::append(const float* new_keys, const float* new_values, std::size_t head_stride,
                      const std::int32_t* row_positions, std::size_t rows, std::size_t start) const {
  const std::size_t bytes = row_bytes(storage, head_dim);
  for (std::size_t head = 0; head < kv_heads; ++head) {
    const auto place = static_cast<std::size_t>(bases[head] + static_cast<std::int64_t>(start));
    const float* own_keys = new_keys + head * head_stride;
    if (centres) own_keys = centred(own_keys, rows, head_dim, start == 0, centres + head * head_dim);
    write(storage, own_keys, rows, head_dim, static_cast<char*>(keys) + place * bytes,
          key_scales ? key_scales + place : nullptr);
    write(storage, new_values + head * head_stride, rows, head_dim, static_cast<char*>(values) + place * bytes,
          value_scales ? value_scales + place : nullptr);
    std::memcpy(positions + head * capacity + start, row_positions, rows * sizeof(std::int32_t));
  }
}

}  // namespace tokloom
