// Forbids tokens in logits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tokloom {

enum class LogitType { float32, bfloat16, float16 };

// Sets logits[row][token] to minus infinity where the row's mask has not the token's bit. Rows of logits are `stride`
// values apart, rows of masks `words`.
void forbid(void* logits, LogitType type, size_t rows, size_t tokens, size_t stride, const uint32_t* masks,
            size_t words);

}  // namespace tokloom
