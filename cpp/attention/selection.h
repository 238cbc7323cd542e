// What decides which slots a query attends to: scores of many keys against few queries, and the best of them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "attention/attention.h"
#include "base/pool.h"

namespace tokloom {

// How the scores of the query heads that share a result become one.
enum class Reduce {
  most,  // the largest
  sum,
  mass,  // the sum of each head's softmax over the slots that its row may choose
  each,  // not at all: a result for each query head
};

struct ScoreCall {
  const float* queries;  // (heads, rows, width); strides in floats
  std::size_t query_head_stride, query_row_stride;
  std::size_t heads, kv_heads, rows, width;
  const void* keys;  // (kv_heads, *, width) of `storage`, `head_stride` keys between KV heads
  Storage storage;
  std::size_t head_stride, count;     // keys [0, count) are scored
  const float* key_scales = nullptr;  // int8 only: (kv_heads, *), `head_stride` apart
  const float* centres = nullptr;     // int4, optional: (kv_heads, width) that is to be added to every key
  float scale;
  // Row r may choose slots of [begin, ends[r]); all others score -inf. With an index this holds for what it lists.
  std::int32_t begin = 0;
  const std::int32_t* ends = nullptr;  // (rows); nullptr: count
  // Optional: the slots that are scored, -1 for none; then results have a place for each of these.
  const std::int64_t* index = nullptr;  // (kv_heads or 1, rows or 1, chosen)
  std::size_t chosen = 0, index_heads = 1, index_rows = 1;
  const std::uint8_t* use = nullptr;  // (heads, rows): which heads have a say; nullptr: all
  Reduce reduce = Reduce::most;
  bool shared = false;  // one result for all KV heads
  float* out;           // (results(), rows, index ? chosen : count)
  int threads = 1;
  ParallelFor split = parallel_for;

  std::size_t results() const { return reduce == Reduce::each ? heads : shared ? 1 : kv_heads; }
};

void score_slots(const ScoreCall& call);

// What of a total for all layers a layer's row takes: its share by the entropy of its scores, which are shares of
// something, over the logarithm of their number, beside that which later layers are expected to have.
struct Density {
  float later, most;  // most: that a row takes, in slots
  float* left;        // (rows): of the total, in slots; what is taken is taken off
};

// What is scored stands for slots: each place for one, or for a page of `page` consecutive ones.
struct ChooseCall {
  ScoreCall score;         // its `out` is not used
  std::size_t k;           // places that a row takes at most
  const std::int32_t* counts = nullptr;  // (rows), each at most k; nullptr: k
  const Density* density = nullptr;      // in place of counts
  // Single slots with scores that are shares of something: of the k best, best first, the fewest that hold this share of
  // all scores together; 0: all.
  float mass = 0;
  // Pages only: the slots that row r may choose are [begin, ends[r]). `score` has the full pages before ends[r]; the page
  // that is cut by it is always taken, and the first one if `first`.
  std::size_t page = 1;
  std::int32_t begin = 0;
  const std::int32_t* ends = nullptr;
  bool first = false;
  std::int64_t* out;  // (results, rows, k * page): the slots, -1 for none
  std::size_t stride = 0;  // between rows of `out`; 0: they follow each other
};

void choose_slots(const ChooseCall& call);

// The places of the k largest of each row of (rows, width), ascending; -1 at the end where fewer are above -inf. Equal
// ones are taken from the front. out (rows, k).
void choose(const float* scores, std::size_t rows, std::size_t width, std::size_t k, std::int64_t* out, int threads,
            ParallelFor split);

}  // namespace tokloom
