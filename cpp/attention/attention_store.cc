// How slots are stored: the conversions of what is appended.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention/attention.h"

namespace tokloom {
namespace {

std::uint16_t round_to_bf16(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  return static_cast<std::uint16_t>(nan ? bits >> 16 | 64 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float widen(std::uint16_t half) {
  const std::uint32_t bits = std::uint32_t{half} << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// A grid that may stand for a group, as it will be stored.
struct Grid {
  std::uint16_t scale, zero;
  float error = 0;
  float levels[kSlotGroup];

  Grid(float wanted_scale, float wanted_zero, const float* x, std::size_t n)
      : scale(round_to_bf16(wanted_scale)), zero(round_to_bf16(wanted_zero)) {
    const float step = widen(scale), from = widen(zero), inverse = step > 0 ? 1 / step : 0;
    for (std::size_t k = 0; k < n; ++k) {
      levels[k] = std::min(std::max(std::nearbyintf((x[k] - from) * inverse), 0.0f), 15.0f);
      const float difference = from + step * levels[k] - x[k];
      error += difference * difference;
    }
  }

  // The best grid for these levels, by linear regression of x on them.
  Grid refined(const float* x, std::size_t n) const {
    float levels_mean = 0, mean = 0, variance = 0, covariance = 0;
    for (std::size_t k = 0; k < n; ++k) levels_mean += levels[k], mean += x[k];
    levels_mean /= static_cast<float>(n), mean /= static_cast<float>(n);
    for (std::size_t k = 0; k < n; ++k) {
      variance += (levels[k] - levels_mean) * (levels[k] - levels_mean);
      covariance += (levels[k] - levels_mean) * (x[k] - mean);
    }
    const float slope = variance > 0 ? std::max(covariance / variance, 0.0f) : 0;
    return Grid(slope, mean - slope * levels_mean, x, n);
  }
};

void quantize_group(const float* x, std::size_t n, std::uint8_t* to) {
  float least = x[0], most = x[0];
  bool finite = true;
  for (std::size_t k = 0; k < n; ++k) {
    least = std::min(least, x[k]), most = std::max(most, x[k]);
    finite &= std::isfinite(x[k]);
  }
  const float nan = std::nanf("");
  Grid best((most - least) / 15, least, x, n);
  if (!finite) {
    best = Grid(nan, nan, x, 0);
    std::fill_n(best.levels, n, 0.0f);
  } else {
    for (const float share : {1.0f, 0.9f, 0.8f}) {  // of the range: one outlier need not coarsen the others
      const float cut = (most - least) * (1 - share) / 2;
      const Grid tried((most - least) * share / 15, least + cut, x, n), better = tried.refined(x, n);
      if (tried.error < best.error) best = tried;
      if (better.error < best.error) best = better;
    }
  }
  const std::uint32_t grid = std::uint32_t{best.scale} << 16 | best.zero;
  std::memcpy(to, &grid, kGridBytes);
  std::fill(best.levels + n, best.levels + kSlotGroup, 0.0f);
  for (std::size_t k = 0; k < kSlotGroup; k += 2)
    to[kGridBytes + k / 2] = static_cast<std::uint8_t>(static_cast<int>(best.levels[k]) |
                                                       static_cast<int>(best.levels[k + 1]) << 4);
}

}  // namespace

std::size_t row_bytes(Storage storage, std::size_t head_dim) {
  switch (storage) {
    case Storage::f32: return head_dim * sizeof(float);
    case Storage::bf16: return head_dim * sizeof(std::uint16_t);
    case Storage::int8: return head_dim;
    case Storage::int4: break;
  }
  return (head_dim + kSlotGroup - 1) / kSlotGroup * kSlotGroupBytes;
}

void quantize_groups(const float* x, std::size_t kv_heads, std::size_t rows, std::size_t head_dim, std::uint8_t* to,
                     std::size_t head_stride) {
  const std::size_t bytes = row_bytes(Storage::int4, head_dim);
  for (std::size_t head = 0; head < kv_heads; ++head)
    for (std::size_t row = 0; row < rows; ++row, x += head_dim)
      for (std::size_t k = 0, group = 0; k < head_dim; k += kSlotGroup, ++group)
        quantize_group(x + k, std::min(kSlotGroup, head_dim - k), to + head * head_stride + row * bytes + group * kSlotGroupBytes);
}

void quantize_slots(const float* x, std::size_t kv_heads, std::size_t rows, std::size_t head_dim, std::int8_t* to,
                    std::size_t head_stride, float* scales, std::size_t scale_stride) {
  for (std::size_t head = 0; head < kv_heads; ++head)
    for (std::size_t row = 0; row < rows; ++row, x += head_dim) {
      float peak = 0;
      bool finite = true;
      for (std::size_t k = 0; k < head_dim; ++k) {
        peak = std::max(peak, std::fabs(x[k]));
        finite &= std::isfinite(x[k]);
      }
      const float scale = peak / 127, inverse = scale > 0 ? 127 / peak : 0;
      scales[head * scale_stride + row] = finite ? scale : std::nanf("");
      std::int8_t* levels = to + head * head_stride + row * head_dim;
      for (std::size_t k = 0; k < head_dim; ++k)
        levels[k] = finite ? static_cast<std::int8_t>(std::lrint(x[k] * inverse)) : std::int8_t{0};
    }
}

void round_slots(const float* x, std::size_t kv_heads, std::size_t rows, std::size_t head_dim, std::uint16_t* to,
                 std::size_t head_stride) {
  for (std::size_t head = 0; head < kv_heads; ++head)
    for (std::size_t i = 0; i < rows * head_dim; ++i, ++x) to[head * head_stride + i] = round_to_bf16(*x);
}

}  // namespace tokloom
