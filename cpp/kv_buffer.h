// Where one layer's keys and values lie: (kv_heads, capacity, head_dim), owned by the tensors of the KV store.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention.h"

namespace tokloom {

struct KVBuffer {
  void* keys;
  void* values;
  float* key_scales;    // int8 only: (kv_heads, capacity)
  float* value_scales;
  std::int32_t* positions;  // (kv_heads, capacity)
  std::size_t kv_heads, capacity, head_dim;
  Storage storage;

  // Writes `rows` slots from slot `start` on; keys and values (kv_heads, rows, head_dim), contiguous.
  void append(const float* new_keys, const float* new_values, const std::int32_t* row_positions, std::size_t rows,
              std::size_t start) const;
};

}  // namespace tokloom
