#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "attention_block.h"
#include "linear.h"
#include "pool.h"

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

// Memory that grows and is kept, aligned for full registers.
class Buffer {
 public:
  float* floats(std::size_t count) {
    if (count > size_) {
      data_.reset(static_cast<float*>(std::aligned_alloc(64, round_up(count * sizeof(float), 64))));
      size_ = data_ ? count : 0;
      if (!data_) throw std::bad_alloc();
    }
    return data_.get();
  }

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> data_;
  std::size_t size_ = 0;
};

// What a thread needs for one block.
struct Scratch {
  Buffer floats, masks;
  std::size_t offsets[kMostSlots];
  std::int32_t numbers[kMostSlots + 1];  // one more for what the index has and is skipped
  float key_scales[kMostSlots], value_scales[kMostSlots];
};

// Queries that share keys: those of a KV head's group, of all rows or (with an index per row) of one. Its slots are
// numbered: without an index as they are stored, else the chosen ones, then the own ones.
struct Unit {
  std::size_t head, row;
  std::size_t begin, end;  // slots that a row may see lie in here
};

struct Segment {
  std::size_t unit, begin, end;
};

// What the caller's thread needs for a call.
struct Plan {
  std::vector<Unit> units;
  std::vector<Segment> segments;
  std::vector<std::size_t> first;  // segment of each unit, and the number of segments
  Buffer queries, partials, raw, shifts, maxima;
};

// One pass over the rows [row, row + rows) of a call.
class Pass {
 public:
  Pass(const AttentionCall& call, std::size_t row, std::size_t rows, bool add_sums, Plan& plan)
      : call_(call), kernels_(attention_kernels()), plan_(plan), first_row_(row), rows_(rows), add_sums_(add_sums) {
    group_ = call.heads / call.kv_heads;
    padded_ = round_up(call.head_dim, kWidest);
    per_row_ = call.index && call.index_rows > 1;
    unit_rows_ = per_row_ ? 1 : rows;
    count_ = group_ * unit_rows_;
    most_slots_ = count_ <= 64 ? kMostSlots : count_ <= 256 ? kMostSlots / 2 : kMostSlots / 4;
    block_ = call.storage == Storage::f32    ? kernels_.f32
             : call.storage == Storage::bf16 ? kernels_.bf16
             : call.storage == Storage::int8 ? kernels_.int8
                                             : kernels_.int4;
    row_bytes_ = row_bytes(call.storage, call.head_dim);
    least_position_ = std::numeric_limits<std::int32_t>::min();
    if (call.window > 0) least_position_ = *std::min_element(call.row_positions + row, call.row_positions + row + rows);
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
  std::size_t own() const { return call_.count - call_.past; }
  std::size_t holes(std::size_t head) const { return call_.holes ? static_cast<std::size_t>(call_.holes[head]) : 0; }
  std::int64_t base(std::size_t head) const {
    return call_.bases ? call_.bases[head] : static_cast<std::int64_t>(head * call_.capacity);
  }
  std::size_t past() const { return call_.index ? call_.chosen : call_.past; }

  // --- what is seen

  // Whether `row` sees a slot of the unit's numbering; `slot` is its place in the store.
  bool sees(const Unit& unit, std::size_t row, std::size_t number, std::size_t slot) const {
    if (number >= past()) {
      const std::size_t other = number - past();
      if (call_.own ? !call_.own[row * call_.rows + other] : other > row) return false;
    }
    return call_.window <= 0 || std::int64_t{call_.positions[unit.head * call_.capacity + slot]} >
                                    std::int64_t{call_.row_positions[row]} - call_.window;
  }

  bool seen_by_any(const Unit& unit, std::size_t number, std::size_t slot) const {
    if (number < past() && unit_rows_ > 1)
      return call_.window <= 0 || std::int64_t{call_.positions[unit.head * call_.capacity + slot]} >
                                      std::int64_t{least_position_} - call_.window;
    for (std::size_t row = unit.row; row < unit.row + unit_rows_; ++row)
      if (sees(unit, row, number, slot)) return true;
    return false;
  }

  const std::int64_t* chosen(const Unit& unit) const {
    const std::size_t head = call_.index_heads > 1 ? unit.head : 0, row = per_row_ ? unit.row : 0;
    return call_.index + (head * call_.index_rows + row) * call_.chosen;
  }

  // The slot of a number, -1 for an empty place of the index.
  std::int64_t slot_of(const Unit& unit, std::size_t number) const {
    if (!call_.index) return static_cast<std::int64_t>(number);
    if (number >= call_.chosen) return static_cast<std::int64_t>(call_.past + number - call_.chosen);
    const std::int64_t slot = chosen(unit)[number];
    const bool exists = slot >= static_cast<std::int64_t>(holes(unit.head)) && slot < static_cast<std::int64_t>(call_.past);
    return exists ? slot : -1;
  }

  bool sees_anything(const Unit& unit, std::size_t row) const {
    for (std::size_t number = unit.begin; number < unit.end; ++number) {
      const std::int64_t slot = slot_of(unit, number);
      if (slot >= 0 && sees(unit, row, number, static_cast<std::size_t>(slot))) return true;
    }
    return false;
  }

  // --- the plan

  void lay_out() {
    plan_.units.clear();
    std::size_t total = 0;
    for (std::size_t head = 0; head < call_.kv_heads; ++head)
      for (std::size_t row = first_row_; row < first_row_ + rows_; row += unit_rows_) {
        Unit unit{head, row, call_.index ? 0 : holes(head), past() + own()};
        if (!call_.index)
          while (unit.begin < unit.end && !seen_by_any(unit, unit.begin, unit.begin)) ++unit.begin;
        total += unit.end - unit.begin;
        plan_.units.push_back(unit);
      }
    work_ = total * count_ * call_.head_dim;
    const std::size_t length = std::max(kLeastSegment, round_up(divide_up(total, kSegments), kWidest));
    plan_.segments.clear();
    plan_.first.clear();
    for (std::size_t u = 0; u < plan_.units.size(); ++u) {
      const Unit& unit = plan_.units[u];
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
    for (const Unit& unit : plan_.units)
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
  float* raw(const Unit& unit, std::size_t g, std::size_t r) const {
    return raw_ + (unit.head * group_ + g) * raw_head_ + (unit.row - first_row_ + r) * raw_row_ + raw_offset_;
  }

  void compute(std::size_t index, Scratch& scratch) const {
    const Segment& segment = plan_.segments[index];
    const Unit& unit = plan_.units[segment.unit];
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
    block.offsets = scratch.offsets;
    block.numbers = scratch.numbers;
    block.key_scales = scratch.key_scales;
    block.value_scales = scratch.value_scales;
    block.raw_head_stride = raw_head_;
    block.raw_row_stride = raw_row_;
    if (raw_) block.raw = raw(unit, 0, 0);
    std::size_t number = index * blocks_;
    const std::size_t step = block_step(segment);
    for (std::size_t at = segment.begin; at < segment.end; at += step, ++number) {
      const std::size_t end = std::min(at + step, segment.end);
      list(unit, at, end, block, scratch);
      if (raw_ && block.slots < end - at)  // seen by no row
        for (std::size_t i = 0; i < count_; ++i) {
          float* row = raw(unit, i / unit_rows_, i % unit_rows_);
          std::fill(row + at, row + end, 0.0f);
        }
      if (block.slots) block_(block);
      if (raw_) std::copy_n(block.largest, count_, maxima_ + number * count_);
    }
  }

  // The slots among numbers [begin, end) that some row sees, and which row sees which if not every row sees all.
  void list(const Unit& unit, std::size_t begin, std::size_t end, AttentionBlock& block, Scratch& scratch) const {
    std::size_t n = 0, number = begin;
    if (call_.window <= 0) {  // all of the past is visible
      const std::size_t shared_end = std::min(end, past());
      if (!call_.index) {
        for (; number < shared_end; ++number) scratch.numbers[n++] = static_cast<std::int32_t>(number);
      } else {
        const std::int64_t* index = chosen(unit);
        const auto least = static_cast<std::int64_t>(holes(unit.head)), most = static_cast<std::int64_t>(call_.past);
        for (; number < shared_end; ++number) {
          scratch.numbers[n] = static_cast<std::int32_t>(index[number]);  // overwritten if it does not count
          n += index[number] >= least && index[number] < most;
        }
      }
    }
    std::int32_t* mask = nullptr;
    if (unit_rows_ > 1 && number < end) {
      mask = reinterpret_cast<std::int32_t*>(scratch.masks.floats(unit_rows_ * block.stride));
      for (std::size_t r = 0; r < unit_rows_; ++r) std::fill_n(mask + r * block.stride, n, -1);
    }
    block.mask = mask;
    for (; number < end; ++number) {
      const std::int64_t place = slot_of(unit, number);
      if (place < 0) continue;
      const std::size_t slot = static_cast<std::size_t>(place);
      if (!seen_by_any(unit, number, slot)) continue;
      scratch.numbers[n] = static_cast<std::int32_t>(slot);
      for (std::size_t r = 0; mask && r < unit_rows_; ++r)
        mask[r * block.stride + n] = sees(unit, unit.row + r, number, slot) ? -1 : 0;
      ++n;
    }
    block.slots = n;
    if (!n) return;
    std::fill(scratch.numbers + n, scratch.numbers + round_up(n, kWidest), scratch.numbers[n - 1]);
    n = round_up(n, kWidest);
    const std::int64_t first = base(unit.head);
    for (std::size_t s = 0; s < n; ++s)
      scratch.offsets[s] = static_cast<std::size_t>(first + scratch.numbers[s]) * row_bytes_;
    if (call_.storage != Storage::int8) return;
    for (std::size_t s = 0; s < n; ++s) {
      scratch.key_scales[s] = call_.key_scales[first + scratch.numbers[s]];
      scratch.value_scales[s] = call_.value_scales[first + scratch.numbers[s]];
    }
  }

  void merge(std::size_t u, std::size_t i) {
    const Unit& unit = plan_.units[u];
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
    if (sum == 0) inverse = sees_anything(unit, row) ? std::numeric_limits<float>::quiet_NaN() : 0;
    for (std::size_t k = 0; k < call_.head_dim; ++k) out[k] *= inverse;
    if (plan_.first[u] < plan_.first[u + 1]) {  // for `normalize`
      largest(plan_.first[u])[i] = most;
      sums(plan_.first[u])[i] = inverse;
    }
  }

  // Zeroes what no segment writes: slots before the first that is seen, and the sums.
  void clear(const Unit& unit) const {
    if (call_.sums && !add_sums_) std::fill_n(call_.sums + unit.head * call_.count, call_.count, 0.0f);
    if (!call_.weights) return;
    for (std::size_t i = 0; i < count_; ++i) std::fill_n(raw(unit, i / unit_rows_, i % unit_rows_), unit.begin, 0.0f);
  }

  // A segment's raw numbers, each block's relative to the largest score so far, to probabilities and their sums.
  void normalize(std::size_t index) const {
    const Segment& segment = plan_.segments[index];
    const Unit& unit = plan_.units[segment.unit];
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
  std::size_t first_row_, rows_;
  bool add_sums_, per_row_;
  std::size_t group_, padded_, unit_rows_, count_, most_slots_, row_bytes_, work_ = 0;
  std::int32_t least_position_;
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
