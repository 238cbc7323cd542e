// What attention.cc and attention_view.cc hand to the kernels of one instruction set: a block of slots of one KV head.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/attention.h"

namespace tokloom {

constexpr std::size_t kMostSlots = 256;  // of a block
constexpr std::size_t kWidest = 16;      // lanes: per-slot arrays and rows of floats are padded to a multiple

struct AttentionBlock {
  const char* keys;  // of the KV head
  const char* values;
  // Of the slots, in bytes, and scales (int8), per listed slot; up to a multiple of kWidest they repeat the last one.
  const std::size_t* offsets;
  const float* key_scales;
  const float* value_scales;
  std::size_t slots;
  std::size_t row_bytes;
  bool scattered;  // the slots do not follow each other
  const float* queries;  // (count, padded), scaled, zeros after head_dim
  const float* shifts;   // (count), added to each query's scores; nullptr: 0
  std::size_t count, rows, head_dim, padded;  // query i belongs to row i % rows
  const std::int32_t* mask;                   // (rows, stride), -1 where the row sees the slot; nullptr: everywhere
  float softcap;

  // Running softmax: the largest score, the sum of exp(score - largest), and that of the values weighted by it.
  float* largest;  // (count)
  float* sums;     // (count)
  float* totals;   // (count, padded)

  float* scores;  // scratch (count, stride); on return exp(score - largest)
  std::size_t stride;
  float* scratch;  // attention_scratch(padded) floats
  float* factors;  // (count) scratch

  float* raw;  // nullptr or where to copy exp(score - largest) to: row r of head g of the group, slot s at
  std::size_t raw_head_stride, raw_row_stride;  // raw[g * raw_head_stride + r * raw_row_stride + numbers[s]]
  const std::int32_t* numbers;
};

// A piece of values that stays in the L1 cache while all queries use it.
constexpr std::size_t kPieceFloats = 4096;

constexpr std::size_t attention_scratch(std::size_t padded) {
  const std::size_t keys = padded * kWidest, values = kPieceFloats + padded * kWidest;
  return keys > values ? keys : values;
}

struct AttentionKernels {
  void (*f32)(const AttentionBlock&);
  void (*bf16)(const AttentionBlock&);
  void (*int8)(const AttentionBlock&);
  void (*int4)(const AttentionBlock&);
  // The scores alone, without mask, soft cap and softmax.
  void (*score_f32)(const AttentionBlock&);
  void (*score_bf16)(const AttentionBlock&);
  void (*score_int8)(const AttentionBlock&);
  void (*score_int4)(const AttentionBlock&);
  // to[i] = exp(scores[i] - largest), 0 for a score of -inf, and their sum; returns the largest, -inf if there is none.
  float (*masses)(const float* scores, std::size_t count, float* to, float* sum);
  // The places of the scores that are not below the border, ascending, and how many; room for count + kWidest is needed.
  std::size_t (*at_least)(const float* scores, std::size_t count, float border, std::uint32_t* places);
  // to[i] = p[i] * factor; adds it to sums[i]. Either may be nullptr.
  void (*scale)(const float* p, std::size_t count, float factor, float* to, float* sums);
};

const AttentionKernels& attention_avx512();
const AttentionKernels& attention_avx2();
const AttentionKernels& attention_portable();
const AttentionKernels& attention_kernels();  // those of this machine

}  // namespace tokloom
