#include "grammar/logits.h"

#include <algorithm>
#include <limits>

namespace tokloom {

namespace {

template <class Value>
void forbid_row(Value* logits, size_t tokens, const uint32_t* mask, Value forbidden) {
  for (size_t at = 0; at < tokens; at += 32) {
    const uint32_t word = mask[at / 32];
    if (word == UINT32_MAX) continue;
    const size_t end = std::min<size_t>(at + 32, tokens);
    if (word == 0) {
      std::fill(logits + at, logits + end, forbidden);
    } else {
      for (size_t token = at; token < end; ++token) logits[token] = (word >> (token - at) & 1) != 0 ? logits[token] : forbidden;
    }
  }
}

}  // namespace

void forbid(void* logits, LogitType type, size_t rows, size_t tokens, size_t stride, const uint32_t* masks,
            size_t words) {
  for (size_t row = 0; row < rows; ++row) {
    const uint32_t* mask = masks + row * words;
    if (type == LogitType::float32) {
      forbid_row(static_cast<float*>(logits) + row * stride, tokens, mask, -std::numeric_limits<float>::infinity());
    } else {
      const uint16_t forbidden = type == LogitType::bfloat16 ? 0xFF80 : 0xFC00;
      forbid_row(static_cast<uint16_t*>(logits) + row * stride, tokens, mask, forbidden);
    }
  }
}

}  // namespace tokloom
