// The largest values of each row, for the candidates of a draft.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tokloom {

// Columns of the k largest values of each row of (rows, width), largest first, the lower column first among equals; NaN
// counts as smallest. out is (rows, k); k <= width.
void top_k(const float* values, std::size_t rows, std::size_t width, std::size_t k, std::int32_t* out);

}  // namespace tokloom
