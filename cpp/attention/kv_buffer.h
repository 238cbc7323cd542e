// Where one layer's keys and values lie, owned by the tensors of the KV store; see AttentionCall.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/attention.h"

namespace tokloom {

struct KVBuffer {
  void* keys;
  void* values;
  float* key_scales;  // int8 only
  float* value_scales;
  float* centres;  // int4, optional: (kv_heads, head_dim) that is taken off keys, the mean of those that come first
  std::int32_t* positions;  // (kv_heads, capacity)
  const std::int64_t* bases;  // (kv_heads)
  const std::int64_t* holes;
  std::size_t kv_heads, capacity, head_dim;
  Storage storage;

  // Writes `rows` slots from slot `start` on; keys and values (kv_heads, rows, head_dim) at `head_stride` between heads.
  void append(const float* new_keys, const float* new_values, std::size_t head_stride, const std::int32_t* row_positions,
              std::size_t rows, std::size_t start) const;
};

}  // namespace tokloom
