#include "attention/selection.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "attention/attention_block.h"
#include "base/buffer.h"
#include "linear/linear.h"

namespace tokloom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kBlock = kMostSlots;
constexpr std::size_t kSmallWork = 1 << 17;  // multiply-adds below which a second thread costs more than it saves

std::size_t round_up(std::size_t n, std::size_t multiple) { return (n + multiple - 1) / multiple * multiple; }
std::size_t divide_up(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

// Queries that are scored against the same keys: those of a KV head's group that have a say, of all rows or, with an
// index per row, of one.
struct Unit {
  std::size_t head, first, count;  // queries [first, first + count) of Plan::members
  std::size_t row;                 // of the index
};

struct Plan {
  std::vector<Unit> units;
  std::vector<std::size_t> members;  // head * rows + row
  std::vector<float> queries, shifts;
  Buffer raw;            // (heads, rows, places)
  Buffer largest, sums;  // of mass, by member and block: the largest score and the sum of the exponentials
};

class Scoring {
 public:
  Scoring(const ScoreCall& call, Plan& plan) : call_(call), plan_(plan), kernels_(attention_kernels()) {
    places_ = call.index ? call.chosen : call.count;
    padded_ = round_up(call.width, kWidest);
    group_ = call.heads / call.kv_heads;
    block_ = call.storage == Storage::f32    ? kernels_.score_f32
             : call.storage == Storage::bf16 ? kernels_.score_bf16
             : call.storage == Storage::int8 ? kernels_.score_int8
                                             : kernels_.score_int4;
    row_bytes_ = row_bytes(call.storage, call.width);
    for (std::size_t i = 0; i < kBlock; ++i) following_[i] = i * row_bytes_;
  }

  void run() {
    lay_out();
    raw_ = plan_.raw.floats(call_.heads * call_.rows * places_);
    blocks_ = divide_up(places_, kBlock);
    const std::size_t blocks = blocks_, work = plan_.members.size() * places_ * call_.width;
    threads_ = work < kSmallWork ? 1 : call_.threads;
    if (places_ == 0) return;
    if (call_.reduce == Reduce::mass) {
      largest_ = plan_.largest.floats(call_.heads * call_.rows * blocks);
      sums_ = plan_.sums.floats(call_.heads * call_.rows * blocks);
    }
    call_.split(plan_.units.size() * blocks, 1, threads_, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) compute(plan_.units[i / blocks], i % blocks);
    });
    if (call_.reduce == Reduce::mass)
      for (const std::size_t member : plan_.members) normalize(member);
    const std::size_t results = call_.results();
    call_.split(results * call_.rows * blocks, 1, threads_, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) {
        const std::size_t result = i / blocks, at = i % blocks * kBlock;
        reduce(result / call_.rows, result % call_.rows, at, std::min(at + kBlock, places_));
      }
    });
  }

 private:
  bool used(std::size_t head, std::size_t row) const { return !call_.use || call_.use[head * call_.rows + row]; }

  void lay_out() {
    plan_.units.clear();
    plan_.members.clear();
    const bool per_row = call_.index && call_.index_rows > 1;
    const std::size_t units = per_row ? call_.rows : 1;
    for (std::size_t head = 0; head < call_.kv_heads; ++head)
      for (std::size_t u = 0; u < units; ++u) {
        Unit unit{head, plan_.members.size(), 0, u};
        for (std::size_t h = head * group_; h < (head + 1) * group_; ++h)
          for (std::size_t row = per_row ? u : 0; row < (per_row ? u + 1 : call_.rows); ++row)
            if (used(h, row)) plan_.members.push_back(h * call_.rows + row);
        unit.count = plan_.members.size() - unit.first;
        if (unit.count) plan_.units.push_back(unit);
      }
    plan_.queries.assign(plan_.members.size() * padded_, 0.0f);
    for (std::size_t i = 0; i < plan_.members.size(); ++i) {
      const std::size_t h = plan_.members[i] / call_.rows, row = plan_.members[i] % call_.rows;
      const float* from = call_.queries + h * call_.query_head_stride + row * call_.query_row_stride;
      for (std::size_t k = 0; k < call_.width; ++k) plan_.queries[i * padded_ + k] = from[k] * call_.scale;
    }
    if (!call_.centres) return;
    plan_.shifts.assign(plan_.members.size(), 0.0f);
    for (std::size_t i = 0; i < plan_.members.size(); ++i) {
      const float* centre = call_.centres + plan_.members[i] / call_.rows / group_ * call_.width;
      for (std::size_t k = 0; k < call_.width; ++k) plan_.shifts[i] += plan_.queries[i * padded_ + k] * centre[k];
    }
  }

  const std::int64_t* listed(std::size_t head, std::size_t row) const {
    return call_.index + ((call_.index_heads > 1 ? head : 0) * call_.index_rows + row) * call_.chosen;
  }

  std::int64_t end_of(std::size_t row) const { return call_.ends ? call_.ends[row] : static_cast<std::int64_t>(call_.count); }

  void compute(const Unit& unit, std::size_t number) {
    const std::size_t at = number * kBlock;
    static thread_local std::vector<float> floats;
    std::size_t offsets[kBlock];
    float scales[kBlock];
    const std::size_t n = std::min(kBlock, places_ - at), whole = round_up(n, kWidest), stride = kBlock + kWidest;
    floats.resize(attention_scratch(padded_) + unit.count * stride);
    const std::int64_t* index = call_.index ? listed(unit.head, unit.row) + at : nullptr;
    const std::size_t origin = unit.head * call_.head_stride + (index ? 0 : at);
    const float* key_scales = call_.key_scales ? call_.key_scales + origin : nullptr;
    if (index) {
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t slot = static_cast<std::size_t>(std::max<std::int64_t>(index[i], 0));
        offsets[i] = slot * row_bytes_;
        if (key_scales) scales[i] = key_scales[slot];
      }
    } else if (n < whole) {
      std::copy_n(following_, n, offsets);
      if (key_scales) std::copy_n(key_scales, n, scales);
    }
    for (std::size_t i = n; i < whole; ++i) {
      offsets[i] = offsets[n - 1];
      if (key_scales) scales[i] = scales[n - 1];
    }
    const bool as_they_are = !index && n == whole;
    AttentionBlock block{};
    block.keys = static_cast<const char*>(call_.keys) + origin * row_bytes_;
    block.values = block.keys;  // only fetched, where slots are scattered
    block.offsets = as_they_are ? following_ : offsets;
    block.key_scales = as_they_are ? key_scales : scales;
    block.slots = n;
    block.row_bytes = row_bytes_;
    block.queries = plan_.queries.data() + unit.first * padded_;
    block.shifts = call_.centres ? plan_.shifts.data() + unit.first : nullptr;
    block.count = unit.count;
    block.rows = unit.count;
    block.head_dim = call_.width;
    block.padded = padded_;
    block.scratch = floats.data();
    block.scores = floats.data() + attention_scratch(padded_);
    block.stride = stride;
    block.scattered = index != nullptr;
    block_(block);
    std::uint16_t outside[kBlock + 1];  // of the places listed, those that row `of` may not choose
    std::size_t forbidden = 0, of = call_.rows;
    for (std::size_t i = 0; i < unit.count; ++i) {
      const std::size_t member = plan_.members[unit.first + i];
      const auto [first, last] = visible(member % call_.rows, at, n);
      float* from = block.scores + i * stride;
      float* to = raw_ + member * places_ + at;
      if (index) {
        if (const std::size_t row = member % call_.rows; row != of) {  // the heads of a row have them in common
          of = row, forbidden = 0;
          for (std::size_t s = 0; s < n; ++s) {
            outside[forbidden] = static_cast<std::uint16_t>(s);
            forbidden += !allowed(index[s], row);
          }
        }
        for (std::size_t j = 0; j < forbidden; ++j) from[outside[j]] = -kInfinity;
      }
      std::fill(from, from + first, -kInfinity);
      std::fill(from + last, from + n, -kInfinity);
      if (call_.reduce == Reduce::mass) {
        float& sum = sums_[member * blocks_ + number];
        largest_[member * blocks_ + number] = kernels_.masses(from, n, to, &sum);
      } else {
        std::copy(from, from + n, to);
      }
    }
  }

  bool allowed(std::int64_t slot, std::size_t row) const { return slot >= call_.begin && slot < end_of(row); }

  // Of the n places from `at` on, those that a row may choose, as far as the places alone say.
  std::pair<std::size_t, std::size_t> visible(std::size_t row, std::size_t at, std::size_t n) const {
    if (call_.index) return {0, n};
    const auto inside = [&](std::int64_t slot) {
      return static_cast<std::size_t>(std::clamp<std::int64_t>(slot - static_cast<std::int64_t>(at), 0, static_cast<std::int64_t>(n)));
    };
    const std::size_t first = inside(call_.begin);
    return {first, std::max(first, inside(end_of(row)))};
  }

  // Makes of each block's sum the factor that its exponentials are multiplied by.
  void normalize(std::size_t member) {
    const float* largest = largest_ + member * blocks_;
    float* sums = sums_ + member * blocks_;
    const float most = *std::max_element(largest, largest + blocks_);
    double sum = 0;
    for (std::size_t i = 0; i < blocks_; ++i)
      if (largest[i] > -kInfinity) sum += double{sums[i]} * std::exp(double{largest[i]} - double{most});
    for (std::size_t i = 0; i < blocks_; ++i)
      sums[i] = largest[i] > -kInfinity ? static_cast<float>(std::exp(double{largest[i]} - double{most}) / sum) : 0.0f;
  }

  void reduce(std::size_t result, std::size_t row, std::size_t begin, std::size_t end) {
    float* out = call_.out + (result * call_.rows + row) * places_;
    std::fill(out + begin, out + end, -kInfinity);
    const std::size_t share = call_.heads / call_.results();  // query heads that share a result
    const std::size_t first = result * share, last = first + share;
    bool any = false;
    for (std::size_t h = first; h < last; ++h) {
      if (!used(h, row)) continue;
      const std::size_t member = h * call_.rows + row;
      const float* from = raw_ + member * places_;
      if (call_.reduce == Reduce::mass) {
        const float factor = sums_[member * blocks_ + begin / kBlock];
        kernels_.scale(from + begin, end - begin, factor, any ? nullptr : out + begin, any ? out + begin : nullptr);
      } else if (!any) {
        std::copy(from + begin, from + end, out + begin);
      } else if (call_.reduce == Reduce::most) {
        for (std::size_t s = begin; s < end; ++s) out[s] = std::max(out[s], from[s]);
      } else {
        for (std::size_t s = begin; s < end; ++s) out[s] += from[s];
      }
      any = true;
    }
    if (call_.reduce != Reduce::mass) return;
    // A softmax has zeros where nothing may be chosen.
    if (call_.index) {
      const std::int64_t* index = listed(call_.shared ? 0 : result, call_.index_rows > 1 ? row : 0);
      for (std::size_t s = begin; s < end; ++s)
        if (!allowed(index[s], row)) out[s] = -kInfinity;
    } else {
      const auto [from, to] = visible(row, begin, end - begin);
      std::fill(out + begin, out + begin + from, -kInfinity);
      std::fill(out + begin + to, out + end, -kInfinity);
    }
  }

  const ScoreCall& call_;
  Plan& plan_;
  const AttentionKernels& kernels_;
  void (*block_)(const AttentionBlock&);
  std::size_t places_, padded_, group_, row_bytes_, blocks_ = 0;
  std::size_t following_[kBlock];  // offsets of slots that follow each other
  float *raw_ = nullptr, *largest_ = nullptr, *sums_ = nullptr;  // of the plan; this thread's, others write to them
  int threads_ = 1;
};

}  // namespace

void score_slots(const ScoreCall& call) {
  static thread_local Plan plan;
  Scoring(call, plan).run();
}

}  // namespace tokloom
