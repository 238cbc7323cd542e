#include "attention/selection.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <vector>

#include "attention/attention_block.h"
#include "base/buffer.h"

namespace tokloom {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::size_t kSmallChoice = 1 << 13;  // scores to choose from below which a second thread does not pay

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
  constexpr std::uint32_t kBins = 1 << 11;
  ranks.resize(width);
  std::uint32_t most = 0, least = std::numeric_limits<std::uint32_t>::max();
  std::size_t finite = 0;
  for (std::size_t i = 0; i < width; ++i) {
    const std::uint32_t rank = rank_of(scores[i]);
    ranks[i] = rank;
    finite += rank != 0;
    most = std::max(most, rank);
    least = std::min(least, rank - 1);  // of 0, which is no score, the largest number
  }
  const std::size_t wanted = std::min(k, finite);
  std::fill(out + wanted, out + k, -1);
  if (wanted == 0) return;
  // Bins over the scores' own span: few share the border's.
  ++least;
  int shift = 0;
  while ((most - least) >> shift >= kBins) ++shift;
  std::uint32_t counts[kBins] = {};
  const auto bin_of = [&](std::uint32_t rank) { return (rank - least) >> shift; };
  for (std::size_t i = 0; i < width; ++i)
    if (ranks[i]) ++counts[bin_of(ranks[i])];
  std::uint32_t bin = bin_of(most);
  std::size_t above = 0;
  while (above + counts[bin] < wanted) above += counts[bin--];
  // Within the border's bin the place of the last one that is taken decides.
  border.clear();
  for (std::size_t i = 0; i < width; ++i)
    if (ranks[i] && bin_of(ranks[i]) == bin) border.push_back(ranks[i]);
  const auto place = static_cast<std::ptrdiff_t>(wanted - above - 1);
  std::nth_element(border.begin(), border.begin() + place, border.end(), std::greater<>());
  const std::uint32_t last = border[static_cast<std::size_t>(place)];
  const auto higher = std::count_if(border.begin(), border.end(), [=](std::uint32_t rank) { return rank > last; });
  std::size_t equal = wanted - above - static_cast<std::size_t>(higher);
  for (std::size_t i = 0, n = 0; n < wanted; ++i) {  // without branches, which nothing could foresee
    const bool same = ranks[i] == last && equal;
    out[n] = static_cast<std::int64_t>(i);
    n += same || ranks[i] > last;
    equal -= same;
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
    if (places.size() < width + kWidest) places.resize(width + kWidest);
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

// How many pages the rows take by the density of their scores.
void share_out(const ChooseCall& call, const float* scores, std::size_t width, std::int32_t* counts) {
  const std::size_t results = call.score.results(), rows = call.score.rows;
  const auto page = static_cast<float>(call.page);
  static thread_local std::vector<double> found;
  found.resize(results * rows);
  double* const densities = found.data();
  const int threads = results * rows * width < kSmallChoice / 8 ? 1 : call.score.threads;  // logarithms take their time
  call.score.split(results * rows, 1, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i) {
      const float* from = scores + i * width;
      double total = 0, weighted = 0;
      std::size_t candidates = call.page > 1 && static_cast<std::size_t>(call.ends[i % rows]) % call.page > 0;
      for (std::size_t s = 0; s < width; ++s) {
        candidates += from[s] > -kInfinity;
        if (!(from[s] > 0)) continue;
        total += from[s];
        weighted += from[s] * std::log(from[s]);
      }
      // Of a single page it may come out a bit below 0, which would be divided by next to nothing in the last layer.
      const double entropy = total > 0 ? std::max(std::log(total) - weighted / total, 0.0) : 0;
      densities[i] = entropy / std::log(static_cast<double>(std::max<std::size_t>(candidates, 2)));
    }
  });
  for (std::size_t row = 0; row < rows; ++row) {
    double sum = 0;
    for (std::size_t result = 0; result < results; ++result) sum += densities[result * rows + row];
    const auto own = static_cast<float>(sum / static_cast<double>(results));
    float& left = call.density->left[row];
    const float part = std::min(left * own / std::max(own + call.density->later, 1e-9f), call.density->most);
    const float items = std::floor(part / page + 1e-4f);  // a whole number may come out a bit below itself
    left -= items * page;
    counts[row] = static_cast<std::int32_t>(std::min(items, static_cast<float>(call.k)));
  }
}

}  // namespace

void choose_slots(const ChooseCall& call) {
  static thread_local Buffer held;
  static thread_local std::vector<std::int32_t> counts;
  ScoreCall score = call.score;
  const std::size_t width = score.index ? score.chosen : score.count, results = score.results();
  float* const scores = held.floats(results * score.rows * width + 1);  // of this thread; others write to it too
  score.out = scores;
  score_slots(score);
  ChooseCall each = call;
  if (call.density) {
    counts.resize(score.rows);
    share_out(call, scores, width, counts.data());
    each.counts = counts.data();
  }
  const std::size_t stride = call.stride ? call.stride : call.k * call.page;
  const int threads = results * score.rows * width < kSmallChoice ? 1 : score.threads;
  score.split(results * score.rows, 1, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t i = begin; i < end; ++i)
      choose_pages(each, i / score.rows, i % score.rows, scores + i * width, width, call.out + i * stride);
  });
}

void choose(const float* scores, std::size_t rows, std::size_t width, std::size_t k, std::int64_t* out, int threads,
            ParallelFor split) {
  split(rows, 1, rows * width < kSmallChoice ? 1 : threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) choose_row(scores + row * width, width, k, out + row * k);
  });
}

}  // namespace tokloom
