// How slots are stored: the conversions of what is appended.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "attention.h"

namespace tokloom {

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
    for (std::size_t i = 0; i < rows * head_dim; ++i, ++x) {
      std::uint32_t bits;
      std::memcpy(&bits, x, sizeof bits);
      const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
      to[head * head_stride + i] =
          static_cast<std::uint16_t>(nan ? bits >> 16 | 64 : (bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
    }
}

}  // namespace tokloom
