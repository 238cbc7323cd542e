#include "selection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "attention_block.h"
#include "linear.h"

namespace tokloom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kBlock = kMostSlots;
constexpr std::size_t kSmallWork = 1 << 17;  // multiply-adds below which a second thread costs more than it saves
constexpr std::size_t kSmallChoice = 1 << 13;  // the same of scores to choose from

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
  std::vector<float> queries, raw, shifts;
  std::vector<float> largest, sums;  // of mass, by member and block: the largest score and the sum of the exponentials
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
  }

  void run() {
    lay_out();
    plan_.raw.resize(call_.heads * call_.rows * places_);
    blocks_ = divide_up(places_, kBlock);
    const std::size_t blocks = blocks_, work = plan_.members.size() * places_ * call_.width;
    threads_ = work < kSmallWork ? 1 : call_.threads;
    if (places_ == 0) return;
    if (call_.reduce == Reduce::mass) {
      plan_.largest.resize(call_.heads * call_.rows * blocks);
      plan_.sums.resize(call_.heads * call_.rows * blocks);
    }
    call_.split(plan_.units.size() * blocks, 1, threads_, [&](std::size_t begin, std::size_t end) {
      for (std::size_t i = begin; i < end; ++i) compute(plan_.units[i / blocks], i % blocks);
    });
    if (call_.reduce == Reduce::mass)
      for (const std::size_t member : plan_.members) normalize(member);
    const std::size_t results = call_.shared ? 1 : call_.kv_heads;
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
    const std::size_t n = std::min(kBlock, places_ - at), stride = kBlock + kWidest;
    floats.resize(attention_scratch(padded_) + unit.count * stride);
    const std::int64_t* index = call_.index ? listed(unit.head, unit.row) + at : nullptr;
    const float* key_scales = call_.key_scales ? call_.key_scales + unit.head * call_.head_stride : nullptr;
    if (index) {
      for (std::size_t i = 0; i < n; ++i)
        offsets[i] = static_cast<std::size_t>(std::max<std::int64_t>(index[i], 0)) * row_bytes_;
    } else {
      for (std::size_t i = 0; i < n; ++i) offsets[i] = (at + i) * row_bytes_;
    }
    for (std::size_t i = n; i < round_up(n, kWidest); ++i) offsets[i] = offsets[n - 1];
    if (key_scales)
      for (std::size_t i = 0; i < round_up(n, kWidest); ++i) scales[i] = key_scales[offsets[i] / row_bytes_];
    AttentionBlock block{};
    block.keys = static_cast<const char*>(call_.keys) + unit.head * call_.head_stride * row_bytes_;
    block.values = block.keys;  // only fetched, where slots are scattered
    block.offsets = offsets;
    block.key_scales = scales;
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
    block_(block);
    for (std::size_t i = 0; i < unit.count; ++i) {
      const std::size_t member = plan_.members[unit.first + i];
      const auto [first, last] = visible(member % call_.rows, at, n);
      float* from = block.scores + i * stride;
      float* to = plan_.raw.data() + member * places_ + at;
      if (index)
        for (std::size_t s = 0; s < n; ++s)
          if (!allowed(index[s], member % call_.rows)) from[s] = -kInfinity;
      std::fill(from, from + first, -kInfinity);
      std::fill(from + last, from + n, -kInfinity);
      if (call_.reduce == Reduce::mass) {
        float& sum = plan_.sums[member * blocks_ + number];
        plan_.largest[member * blocks_ + number] = kernels_.masses(from, n, to, &sum);
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
    const float* largest = plan_.largest.data() + member * blocks_;
    float* sums = plan_.sums.data() + member * blocks_;
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
    const std::size_t first = call_.shared ? 0 : result * group_, last = call_.shared ? call_.heads : first + group_;
    bool any = false;
    for (std::size_t h = first; h < last; ++h) {
      if (!used(h, row)) continue;
      const std::size_t member = h * call_.rows + row;
      const float* from = plan_.raw.data() + member * places_;
      if (call_.reduce == Reduce::mass) {
        const float factor = plan_.sums[member * blocks_ + begin / kBlock];
        if (!any) std::fill(out + begin, out + end, 0.0f);
        for (std::size_t s = begin; s < end; ++s) out[s] += from[s] * factor;
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
  int threads_ = 1;
};

// Floats in an order of unsigned integers; -inf and NaN come first.
std::uint32_t rank_of(float x) {
  if (x == 0) x = 0;  // minus zero is no less
  if (!(x > -kInfinity)) return 0;
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

void choose_all(const float* scores, std::size_t width, std::size_t k, std::int64_t* out) {
  static thread_local std::vector<std::uint32_t> ranks, border;
  constexpr std::size_t kBins = 1 << 11;
  std::uint32_t counts[kBins] = {};
  ranks.resize(width);
  std::size_t finite = 0;
  for (std::size_t i = 0; i < width; ++i) {
    ranks[i] = rank_of(scores[i]);
    ++counts[ranks[i] >> 21];
    finite += ranks[i] != 0;
  }
  const std::size_t wanted = std::min(k, finite);
  std::fill(out + wanted, out + k, -1);
  if (wanted == 0) return;
  std::size_t bin = kBins - 1, above = 0;
  while (above + counts[bin] < wanted) above += counts[bin--];
  // Within the border's bin the place of the last one that is taken decides.
  border.clear();
  for (std::size_t i = 0; i < width; ++i)
    if (ranks[i] >> 21 == bin && ranks[i]) border.push_back(ranks[i]);
  const std::size_t place = wanted - above - 1;
  std::nth_element(border.begin(), border.begin() + static_cast<std::ptrdiff_t>(place), border.end(),
                   [](std::uint32_t a, std::uint32_t b) { return a > b; });
  const std::uint32_t least = border[place];
  std::size_t higher = 0;
  for (std::size_t i = 0; i < width; ++i) higher += ranks[i] > least;
  std::size_t equal = wanted - higher, n = 0;
  for (std::size_t i = 0; i < width && n < wanted; ++i) {
    if (ranks[i] > least) {
      out[n++] = static_cast<std::int64_t>(i);
    } else if (ranks[i] == least && equal) {
      out[n++] = static_cast<std::int64_t>(i);
      --equal;
    }
  }
}

// A value that somewhat more than k of the scores should reach, judged by a sample; -inf if that is no help.
float border_of(const float* scores, std::size_t width, std::size_t k) {
  constexpr std::size_t kSample = 256;
  if (width < 8 * kSample) return -kInfinity;
  const std::size_t place = k * kSample * 5 / (width * 4) + 8;
  if (place >= kSample / 2) return -kInfinity;
  float sample[kSample];
  for (std::size_t i = 0; i < kSample; ++i) {
    sample[i] = scores[i * width / kSample];
    if (sample[i] != sample[i]) return -kInfinity;
  }
  std::nth_element(sample, sample + place, sample + kSample, [](float a, float b) { return a > b; });
  return sample[place];
}

void choose_row(const float* scores, std::size_t width, std::size_t k, std::int64_t* out) {
  static thread_local std::vector<std::uint32_t> places;
  static thread_local std::vector<float> values;
  const float border = border_of(scores, width, k);
  std::size_t count = 0;
  if (border > -kInfinity) {
    places.resize(width + kWidest);
    count = attention_kernels().at_least(scores, width, border, places.data());
  }
  if (count < k || count == 0) return choose_all(scores, width, k, out);
  values.resize(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = scores[places[i]];
  choose_all(values.data(), count, k, out);
  for (std::size_t i = 0; i < k; ++i) out[i] = places[static_cast<std::size_t>(out[i])];
}

// Puts the places that hold so much of all scores first, and returns how many these are.
std::size_t keep_mass(const float* scores, std::size_t width, float mass, std::int64_t* places, std::size_t k) {
  const auto score_of = [&](std::int64_t place) { return scores[static_cast<std::size_t>(place)]; };
  k = static_cast<std::size_t>(std::find(places, places + k, -1) - places);
  std::sort(places, places + k, [&](std::int64_t a, std::int64_t b) {
    return score_of(a) > score_of(b) || (score_of(a) == score_of(b) && a < b);
  });
  double total = 0, held = 0;
  for (std::size_t i = 0; i < width; ++i) total += std::max(scores[i], 0.0f);
  std::size_t kept = 0;
  for (; kept < k && held < double{mass} * total; ++kept) held += std::max(score_of(places[kept]), 0.0f);
  return kept;
}

// The slots of a row's choice: out (k * page).
void choose_pages(const ChooseCall& call, std::size_t result, std::size_t row, float* scores, std::size_t width,
                  std::int64_t* out) {
  static thread_local std::vector<std::int64_t> places;
  const auto page = static_cast<std::int64_t>(call.page);
  std::size_t k = call.counts ? static_cast<std::size_t>(call.counts[row]) : call.k;
  std::int64_t* const stop = out + call.k * call.page;
  if (call.page == 1) {
    choose_row(scores, width, k, out);
    if (call.mass > 0) k = keep_mass(scores, width, call.mass, out, k);
    std::fill(out + k, stop, -1);
    if (!call.score.index) return;
    const std::size_t head = call.score.index_heads > 1 ? result : 0, of = call.score.index_rows > 1 ? row : 0;
    const std::int64_t* index = call.score.index + (head * call.score.index_rows + of) * call.score.chosen;
    for (std::size_t i = 0; i < k; ++i)
      if (out[i] >= 0) out[i] = index[out[i]];
    return;
  }
  const std::int64_t end = call.ends[row], cut = end / page;
  const std::int64_t first = call.begin / page;
  const bool always = call.first && first < cut;
  const bool tail = end % page > 0 && k > always;
  if (always) scores[first] = kInfinity;
  k -= tail;
  places.resize(k + 1);
  choose_row(scores, width, k, places.data());
  if (tail) places[k] = cut;
  for (std::size_t i = 0; i < k + tail; ++i)
    for (std::int64_t slot = places[i] * page; slot < (places[i] + 1) * page; ++slot)
      *out++ = slot >= call.begin && slot < end ? slot : -1;
  std::fill(out, stop, -1);
}

}  // namespace

void choose_slots(const ChooseCall& call) {
  static thread_local std::vector<float> held;
  ScoreCall score = call.score;
  const std::size_t width = score.index ? score.chosen : score.count, results = score.shared ? 1 : score.kv_heads;
  held.resize(results * score.rows * width + 1);
  float* const scores = held.data();  // of this thread; others write to it too
  score.out = scores;
  score_slots(score);
  const int threads = results * score.rows * width < kSmallChoice ? 1 : score.threads;
  score.split(results * score.rows, 1, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i)
      choose_pages(call, i / score.rows, i % score.rows, scores + i * width, width, call.out + i * call.k * call.page);
  });
}

void score_slots(const ScoreCall& call) {
  static thread_local Plan plan;
  Scoring(call, plan).run();
}

void choose(const float* scores, std::size_t rows, std::size_t width, std::size_t k, std::int64_t* out, int threads,
            ParallelFor split) {
  split(rows, 1, rows * width < kSmallChoice ? 1 : threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) choose_row(scores + row * width, width, k, out + row * k);
  });
}

}  // namespace tokloom
