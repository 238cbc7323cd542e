#include "attention/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "attention/attention_block.h"
#include "attention/attention_view.h"
#include "base/buffer.h"
#include "linear/linear.h"
#include "base/pool.h"

namespace tokloom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kSegments = 32;            // about as many per call: enough for even shares, few to merge
constexpr std::size_t kLeastSegment = 64;        // slots
constexpr std::size_t kSmallWork = 1 << 17;      // multiply-adds below which a second thread costs more than it saves
constexpr std::size_t kSmallMerge = 1 << 18;     // the same of merging
constexpr std::size_t kMostRaw = std::size_t{1} << 18;  // floats of scratch for sums, 1 MB: they stay in the L2 cache

std::size_t round_up(std::size_t n, std::size_t multiple) { return (n + multiple - 1) / multiple * multiple; }
std::size_t divide_up(std::size_t n, std::size_t by) { return (n + by - 1) / by; }

struct Segment {
  std::size_t unit, begin, end;
};

// What a thread needs for one block.
struct Scratch {
  Buffer floats;
  Listed listed;
};

// What the caller's thread needs for a call.
struct Plan {
  std::vector<QueryUnit> units;
  std::vector<Segment> segments;
  std::vector<std::size_t> first;  // segment of each unit, and the number of segments
  Buffer queries, partials, raw, shifts, maxima;
};

// One pass over the rows [row, row + rows) of a call.
class Pass {
 public:
  Pass(const AttentionCall& call, std::size_t row, std::size_t rows, bool add_sums, Plan& plan)
      : call_(call),
        kernels_(attention_kernels()),
        plan_(plan),
        view_(call, row, rows),
        first_row_(row),
        rows_(rows),
        add_sums_(add_sums) {
    group_ = call.heads / call.kv_heads;
    padded_ = round_up(call.head_dim, kWidest);
    unit_rows_ = view_.unit_rows();
    count_ = group_ * unit_rows_;
    most_slots_ = count_ <= 64 ? kMostSlots : count_ <= 256 ? kMostSlots / 2 : kMostSlots / 4;
    block_ = call.storage == Storage::f32    ? kernels_.f32
             : call.storage == Storage::bf16 ? kernels_.bf16
             : call.storage == Storage::int8 ? kernels_.int8
                                             : kernels_.int4;
    row_bytes_ = row_bytes(call.storage, call.head_dim);
  }

  void run() {
    lay_out();
    copy_queries();
    const std::size_t segments = plan_.segments.size(), partial = count_ * (padded_ + 2);
    float* partials = plan_.partials.floats(segments * round_up(partial, kWidest));
    if (call_.weights) {
      raw_ = call_.weights;
    } else if (call_.sums) {
      raw_ = plan_.raw.floats(call_.heads * rows_ * call_.count);
    }
    if (raw_) maxima_ = plan_.maxima.floats(segments * blocks_ * count_);
    raw_row_ = call_.count;
    raw_head_ = (call_.weights ? call_.rows : rows_) * call_.count;
    raw_offset_ = call_.weights ? first_row_ * call_.count : 0;
    const int threads = work_ < kSmallWork ? 1 : call_.threads;
    partials_ = partials;
    call_.split(segments, 1, threads, [&](std::size_t begin, std::size_t end) {
      static thread_local Scratch scratch;
      for (std::size_t i = begin; i < end; ++i) compute(i, scratch);
    });
    const std::size_t outputs = plan_.units.size() * count_;
    const std::size_t grain = std::max<std::size_t>(1, kSmallMerge * plan_.units.size() / (segments * call_.head_dim + 1));
    call_.split(outputs, grain, threads, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) merge(i / count_, i % count_);
    });
    if (!raw_) return;
    for (std::size_t u = 0; u < plan_.units.size(); ++u) clear(plan_.units[u]);
    call_.split(segments, 1, threads, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) normalize(i);
    });
  }

 private:
  // --- the plan

  void lay_out() {
    plan_.units.clear();
    std::size_t total = 0;
    for (std::size_t head = 0; head < call_.kv_heads; ++head)
      for (std::size_t row = first_row_; row < first_row_ + rows_; row += unit_rows_) {
        plan_.units.push_back(view_.unit(head, row));
        total += plan_.units.back().end - plan_.units.back().begin;
      }
    work_ = total * count_ * call_.head_dim;
    const std::size_t length = std::max(kLeastSegment, round_up(divide_up(total, kSegments), kWidest));
    plan_.segments.clear();
    plan_.first.clear();
    for (std::size_t u = 0; u < plan_.units.size(); ++u) {
      const QueryUnit& unit = plan_.units[u];
      plan_.first.push_back(plan_.segments.size());
      const std::size_t slots = unit.end - unit.begin, parts = divide_up(slots, length);
      const std::size_t step = parts ? round_up(divide_up(slots, parts), kWidest) : 0;
      for (std::size_t at = unit.begin; at < unit.end; at += step)
        plan_.segments.push_back({u, at, std::min(at + step, unit.end)});
    }
    plan_.first.push_back(plan_.segments.size());
    blocks_ = 1;
    for (const Segment& segment : plan_.segments)
      blocks_ = std::max(blocks_, divide_up(segment.end - segment.begin, block_step(segment)));
  }

  // Slots of a segment's blocks.
  std::size_t block_step(const Segment& segment) const {
    const std::size_t slots = segment.end - segment.begin;
    return round_up(divide_up(slots, divide_up(slots, most_slots_)), kWidest);
  }

  void copy_queries() {
    float* to = plan_.queries.floats(plan_.units.size() * count_ * padded_);
    for (const QueryUnit& unit : plan_.units)
      for (std::size_t i = 0; i < count_; ++i, to += padded_) {
        const float* from = call_.queries + (unit.head * group_ + i / unit_rows_) * call_.query_head_stride +
                            (unit.row + i % unit_rows_) * call_.query_row_stride;
        for (std::size_t k = 0; k < call_.head_dim; ++k) to[k] = from[k] * call_.scale;
        std::fill(to + call_.head_dim, to + padded_, 0.0f);
      }
    // What all keys share shifts a query's scores by one number, which only a soft cap can tell.
    if (!call_.centres || call_.softcap <= 0) return;
    shifts_ = plan_.shifts.floats(plan_.units.size() * count_);
    to = plan_.queries.floats(0);
    for (std::size_t i = 0; i < plan_.units.size() * count_; ++i, to += padded_) {
      const float* centre = call_.centres + plan_.units[i / count_].head * call_.head_dim;
      shifts_[i] = 0;
      for (std::size_t k = 0; k < call_.head_dim; ++k) shifts_[i] += to[k] * centre[k];
    }
  }

  float* largest(std::size_t segment) const {
    return partials_ + segment * round_up(count_ * (padded_ + 2), kWidest) + count_ * padded_;
  }
  float* sums(std::size_t segment) const { return largest(segment) + count_; }
  float* totals(std::size_t segment) const { return largest(segment) - count_ * padded_; }

  // --- the work

  // The place of the scores of row r (of the unit) of the group's head g.
  float* raw(const QueryUnit& unit, std::size_t g, std::size_t r) const {
    return raw_ + (unit.head * group_ + g) * raw_head_ + (unit.row - first_row_ + r) * raw_row_ + raw_offset_;
  }

  void compute(std::size_t index, Scratch& scratch) const {
    const Segment& segment = plan_.segments[index];
    const QueryUnit& unit = plan_.units[segment.unit];
    std::fill_n(largest(index), count_, -kInfinity);
    std::fill_n(sums(index), count_, 0.0f);
    std::fill_n(totals(index), count_ * padded_, 0.0f);

    AttentionBlock block{};
    block.keys = static_cast<const char*>(call_.keys);
    block.values = static_cast<const char*>(call_.values);
    block.queries = plan_.queries.floats(0) + segment.unit * count_ * padded_;
    block.shifts = shifts_ ? shifts_ + segment.unit * count_ : nullptr;
    block.count = count_;
    block.rows = unit_rows_;
    block.head_dim = call_.head_dim;
    block.row_bytes = row_bytes_;
    block.padded = padded_;
    block.softcap = call_.softcap;
    block.largest = largest(index);
    block.sums = sums(index);
    block.totals = totals(index);
    block.stride = most_slots_ + kWidest;  // not a power of two: the rows would share few cache sets
    block.scratch = scratch.floats.floats(attention_scratch(padded_) + count_ * block.stride + count_);
    block.scores = block.scratch + attention_scratch(padded_);
    block.factors = block.scores + count_ * block.stride;
    block.scattered = call_.index != nullptr;
    block.raw_head_stride = raw_head_;
    block.raw_row_stride = raw_row_;
    if (raw_) block.raw = raw(unit, 0, 0);
    std::size_t number = index * blocks_;
    const std::size_t step = block_step(segment);
    for (std::size_t at = segment.begin; at < segment.end; at += step, ++number) {
      const std::size_t end = std::min(at + step, segment.end);
      view_.list(unit, at, end, scratch.listed, block);
      if (raw_ && block.slots < end - at)  // seen by no row
        for (std::size_t i = 0; i < count_; ++i) {
          float* row = raw(unit, i / unit_rows_, i % unit_rows_);
          std::fill(row + at, row + end, 0.0f);
        }
      if (block.slots) block_(block);
      if (raw_) std::copy_n(block.largest, count_, maxima_ + number * count_);
    }
  }

  void merge(std::size_t u, std::size_t i) {
    const QueryUnit& unit = plan_.units[u];
    const std::size_t row = unit.row + i % unit_rows_;
    float* out = call_.out + (unit.head * group_ + i / unit_rows_) * call_.out_head_stride + row * call_.out_row_stride;
    std::fill_n(out, call_.head_dim, 0.0f);
    float most = -kInfinity, sum = 0;
    for (std::size_t s = plan_.first[u]; s < plan_.first[u + 1]; ++s) most = std::max(most, largest(s)[i]);
    if (most == -kInfinity) most = 0;
    for (std::size_t s = plan_.first[u]; s < plan_.first[u + 1]; ++s) {
      const float factor = std::exp(largest(s)[i] - most);
      const float* total = totals(s) + i * padded_;
      sum += sums(s)[i] * factor;
      for (std::size_t k = 0; k < call_.head_dim; ++k) out[k] += total[k] * factor;
    }
    float inverse = 1 / sum;
    // Nothing seen, or all that is seen has a score of -inf: torch divides 0 by 0.
    if (sum == 0) inverse = view_.sees_anything(unit, row) ? std::numeric_limits<float>::quiet_NaN() : 0;
    for (std::size_t k = 0; k < call_.head_dim; ++k) out[k] *= inverse;
    if (plan_.first[u] < plan_.first[u + 1]) {  // for `normalize`
      largest(plan_.first[u])[i] = most;
      sums(plan_.first[u])[i] = inverse;
    }
  }

  // Zeroes what no segment writes: slots before the first that is seen, and the sums.
  void clear(const QueryUnit& unit) const {
    if (call_.sums && !add_sums_) std::fill_n(call_.sums + unit.head * call_.count, call_.count, 0.0f);
    if (!call_.weights) return;
    for (std::size_t i = 0; i < count_; ++i) std::fill_n(raw(unit, i / unit_rows_, i % unit_rows_), unit.begin, 0.0f);
  }

  // A segment's raw numbers, each block's relative to the largest score so far, to probabilities and their sums.
  void normalize(std::size_t index) const {
    const Segment& segment = plan_.segments[index];
    const QueryUnit& unit = plan_.units[segment.unit];
    const std::size_t first = plan_.first[segment.unit], step = block_step(segment);
    float* sums_of_head = call_.sums ? call_.sums + unit.head * call_.count : nullptr;
    const float* maxima = maxima_ + index * blocks_ * count_;
    for (std::size_t at = segment.begin; at < segment.end; at += step, maxima += count_) {
      const std::size_t slots = std::min(step, segment.end - at);
      for (std::size_t i = 0; i < count_; ++i) {
        float* p = raw(unit, i / unit_rows_, i % unit_rows_) + at;
        const float before = maxima[i] == -kInfinity ? 0 : maxima[i];  // nothing seen yet: all are 0
        const float factor = std::exp(before - largest(first)[i]) * sums(first)[i];
        kernels_.scale(p, slots, factor, call_.weights ? p : nullptr, sums_of_head ? sums_of_head + at : nullptr);
      }
    }
  }

  const AttentionCall& call_;
  const AttentionKernels& kernels_;
  Plan& plan_;
  View view_;
  std::size_t first_row_, rows_;
  bool add_sums_;
  std::size_t group_, padded_, unit_rows_, count_, most_slots_, row_bytes_, work_ = 0;
  void (*block_)(const AttentionBlock&);
  float* partials_ = nullptr;
  float* raw_ = nullptr;
  float* shifts_ = nullptr;
  float* maxima_ = nullptr;  // of each segment, block and query: what its raw numbers are relative to
  std::size_t blocks_ = 1;   // the most of a segment
  std::size_t raw_head_ = 0, raw_row_ = 0, raw_offset_ = 0;
};

}  // namespace

const AttentionKernels& attention_kernels() {
  static const AttentionKernels& chosen = []() -> const AttentionKernels& {
#if defined(__x86_64__)
    const std::string name = kernels().name;
    if (name == "amx" || name == "avx512") return attention_avx512();
    if (name == "avx2") return attention_avx2();
#endif
    return attention_portable();
  }();
  return chosen;
}

void attend(const AttentionCall& call) {
  static thread_local Plan plan;
  std::size_t rows = call.rows;
  if (call.sums && !call.weights)
    rows = std::min(rows, std::max<std::size_t>(1, kMostRaw / std::max<std::size_t>(1, call.heads * call.count)));
  for (std::size_t row = 0; row < call.rows; row += rows)
    Pass(call, row, std::min(rows, call.rows - row), row > 0, plan).run();
}

}  // namespace tokloom
