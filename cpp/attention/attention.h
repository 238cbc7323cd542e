// Attention of few queries (one token, a draft tree) over the slots of one sequence's KV store.
//
// Slots are numbered alike for all KV heads, the rows' own at the end. A head that holds fewer than others has holes: its
// first numbers stand for nothing. What it holds lies in one piece, wherever `bases` says.
//
// Work is split into segments of slots of one KV head, and a segment into blocks of up to 256 slots with an online
// softmax over them; the partial results are merged at the end. Segments depend on the call's sizes only, not on the
// number of threads, so that neither does the result.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/pool.h"

namespace tokloom {

// int4: a row is groups of kSlotGroup elements, the last one filled up. A group begins with its grid, scale and zero as two
// bf16 in one little-endian word (scale in the upper half), then come the levels, 0 to 15, two a byte, the lower half first:
// an element is zero + scale * level.
enum class Storage { f32, bf16, int8, int4 };

constexpr std::size_t kSlotGroup = 32, kGridBytes = 4, kSlotGroupBytes = kGridBytes + kSlotGroup / 2;

std::size_t row_bytes(Storage storage, std::size_t head_dim);

struct AttentionCall {
  const float* queries;  // (heads, rows, head_dim), rotated; strides in floats
  std::size_t query_head_stride, query_row_stride;
  std::size_t heads, kv_heads, rows, head_dim;
  const void* keys;  // (places, row_bytes) of `storage`
  const void* values;
  Storage storage;
  // Slot s of head h lies at place bases[h] + s (nullptr: h * capacity + s) and exists from s = holes[h] on (nullptr: 0).
  const std::int64_t* bases = nullptr;
  const std::int64_t* holes = nullptr;
  std::size_t capacity;               // of positions, and of what has no bases
  const float* key_scales = nullptr;  // int8 only: (places)
  const float* value_scales = nullptr;
  const float* centres = nullptr;  // int4, optional: (kv_heads, head_dim) that is to be added to every key
  // Text positions of the slots, (kv_heads, capacity), and of the rows, (rows): read only if there is a window.
  const std::int32_t* positions = nullptr;
  const std::int32_t* row_positions = nullptr;
  std::size_t count, past;            // slots in use; the last count - past == rows of them are the rows' own
  const std::uint8_t* own = nullptr;  // (rows, rows): row i sees own slot j; nullptr: j <= i
  std::int32_t window = 0;            // 0: none; else a slot is visible iff its position > the row's - window
  float scale, softcap = 0;           // softcap 0: none; else tanh(s / softcap) * softcap
  // Optional: the slots of the past that are attended to (-1 or a hole: none), besides the own ones; each at most once.
  // Not nullptr for an empty choice.
  const std::int64_t* index = nullptr;  // (kv_heads or 1, rows or 1, chosen)
  std::size_t chosen = 0, index_heads = 1, index_rows = 1;
  float* out;  // (heads, rows, head_dim); strides in floats
  std::size_t out_head_stride, out_row_stride;
  // Optional, not together with an index: probabilities, 0 where unseen, and their sums over rows and the heads of a
  // group. Sums alone take scratch of 1 MB at most, or what one row needs.
  float* weights = nullptr;  // (heads, rows, count)
  float* sums = nullptr;     // (kv_heads, count)
  int threads = 1;
  ParallelFor split = parallel_for;
};

// A row that sees no slot gives zeros. NaN and infinity in what a row sees do to it what they do in torch's softmax;
// slots that no row of a call sees are not read, nor are spare ones.
void attend(const AttentionCall& call);

// int8 storage: to (kv_heads, rows, head_dim) at `head_stride` levels between heads, x contiguous. Symmetric with one
// scale per row, rounded to nearest; scales (kv_heads, rows) at `scale_stride`. What is not finite makes its row NaN.
void quantize_slots(const float* x, std::size_t kv_heads, std::size_t rows, std::size_t head_dim, std::int8_t* to,
                    std::size_t head_stride, float* scales, std::size_t scale_stride);

// int4 storage, as above; to (kv_heads, rows, row_bytes) at `head_stride` bytes between heads. For each group the grid with
// the least squared error of those tried. What is not finite makes its group NaN.
void quantize_groups(const float* x, std::size_t kv_heads, std::size_t rows, std::size_t head_dim, std::uint8_t* to,
                     std::size_t head_stride);

// bf16 storage: rounded to nearest, ties to even; to (kv_heads, rows, head_dim) at `head_stride` between heads.
void round_slots(const float* x, std::size_t kv_heads, std::size_t rows, std::size_t head_dim, std::uint16_t* to,
                 std::size_t head_stride);

}  // namespace tokloom
