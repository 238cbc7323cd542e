#include "attention/top_k.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace tokloom {

void top_k(const float* values, std::size_t rows, std::size_t width, std::size_t k, std::int32_t* out) {
  constexpr std::size_t kChunk = 64;
  std::vector<float> best(k);
  for (std::size_t row = 0; row < rows; ++row, values += width, out += k) {
    std::size_t held = 0;
    const auto consider = [&](std::size_t column) {
      float value = values[column];
      if (value != value) value = -std::numeric_limits<float>::infinity();
      if (held == k && !(value > best[k - 1])) return;
      std::size_t at = held < k ? held++ : k - 1;
      for (; at > 0 && value > best[at - 1]; --at) best[at] = best[at - 1], out[at] = out[at - 1];
      best[at] = value;
      out[at] = static_cast<std::int32_t>(column);
    };
    for (std::size_t start = 0; start < width; start += kChunk) {
      const std::size_t end = std::min(width, start + kChunk);
      if (held == k) {  // most chunks hold nothing of interest, which vectors see at once
        const float least = best[k - 1];
        int larger = 0;
        for (std::size_t column = start; column < end; ++column) larger |= values[column] > least;
        if (!larger) continue;
      }
      for (std::size_t column = start; column < end; ++column) consider(column);
    }
  }
}

}  // namespace tokloom
