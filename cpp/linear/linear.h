// y = x W^T for packed weights: one kernel for one row (decoding), a draft tree's rows or a prompt chunk's.
//
// Packed layout: the outputs in blocks of 16; a block is one stream of memory that holds, step by step along the
// inputs, what the 16 outputs need, so that a weight that was read serves all rows of a tile and no register has to be
// summed up across its lanes.
//
// fp32 and bf16: input by input, 16 weights side by side. Widened to float in registers; nothing is rounded.
//
// Levels: a weight is scale * level + least, level 0 to 255 (8 bits) or 0 to 15 (4 bits), with a scale, and where the
// format needs it a least value, for every 16 or 32 inputs of an output; without one, least is -128 * scale, so that 8
// bits are signed. Four inputs of one output lie side by side: what one instruction multiplies and sums. Products are
// of integers: the rows of x are rounded to 24 bits (many rows to 8, on demand) with a scale for every 32 inputs. 24 bits are what a float
// has: the products are then as exact as fp32's, and faster.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "base/pool.h"

namespace tokloom {

constexpr std::size_t kBlock = 16;  // outputs of a block
constexpr std::size_t kGroup = 32;  // inputs that share a scale of x
constexpr std::size_t kManyRows = 64;  // beyond it is a prompt's chunk, not a draft tree
constexpr std::size_t kFewRows = 10;  // up to which rows of 24 bits are multiplied as integers
constexpr std::size_t kParts = 3;   // into which a level of x is split at most, for the processor to multiply

// How a matrix is kept. The kernels are compiled for each of these.
enum class Kind : std::uint8_t {
  f32,
  bf16,
  level8,         // 8 bits, groups of 32, fp16 scales
  level8_fine,    // 8 bits, groups of 16, fp32 scales
  level8_least,   // 8 bits, groups of 32, fp32 scales and leasts
  level4,         // 4 bits, groups of 32, fp16 scales and leasts
  level4_wide,    // 4 bits, groups of 32, fp32 scales and leasts
};

struct Layout {
  std::size_t bits;    // of a weight
  std::size_t group;   // inputs that share factors; 0 without
  std::size_t factors; // of a group for each output
  std::size_t factor_bytes;
};

constexpr Layout layout(Kind kind) {
  switch (kind) {
    case Kind::f32: return {32, 0, 0, 0};
    case Kind::bf16: return {16, 0, 0, 0};
    case Kind::level8: return {8, 32, 1, 2};
    case Kind::level8_fine: return {8, 16, 1, 4};
    case Kind::level8_least: return {8, 32, 2, 4};
    case Kind::level4: return {4, 32, 2, 2};
    case Kind::level4_wide: return {4, 32, 2, 4};
  }
  return {};
}

// Memory that is not cleared, aligned for full registers; a thread's next one takes over what this one had.
template <class T>
class Kept {
 public:
  Kept() = default;
  Kept(const Kept&) = delete;
  Kept& operator=(const Kept&) = delete;
  ~Kept() {
    if (!held_.empty()) spare().push_back(std::move(held_));
  }

  void reserve(std::size_t count) {
    if (held_.empty() && !spare().empty()) {
      held_ = std::move(spare().back());
      spare().pop_back();
    }
    const std::size_t bytes = count * sizeof(T) + 64;
    if (held_.size() < bytes) held_ = std::vector<char>(bytes);
    data_ = reinterpret_cast<T*>(held_.data() + (64 - reinterpret_cast<std::uintptr_t>(held_.data()) % 64) % 64);
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](std::size_t i) { return data_[i]; }

 private:
  static std::vector<std::vector<char>>& spare() {
    thread_local std::vector<std::vector<char>> vectors;
    return vectors;
  }
  std::vector<char> held_;
  T* data_ = nullptr;
};

// Rows that are multiplied, (rows, inputs) floats; the rest is filled in by `quantize` where the kernel needs it.
struct Rows {
  const float* x;
  std::size_t rows, inputs;
  int bits = 0;                 // of a level of x: 24 or 8, 0 while there are none
  bool tiled = false;           // levels are parts in tiles, sums those of 32 inputs; see tile_kernels.inc
  Kept<std::int8_t> levels{};   // as the instruction set's kernel reads them
  Kept<float> scales{};         // (rows, inputs / 32)
  Kept<std::int32_t> shifts{};  // (rows, kParts, inputs / 16): -128 times the sum of each part of the levels
  Kept<float> sums{};           // (rows, inputs / 16): of the values that the levels stand for

  Rows(const float* x_, std::size_t rows_, std::size_t inputs_) : x(x_), rows(rows_), inputs(inputs_) {}
};

// A packed matrix as a kernel sees it.
struct Packed {
  const void* data;
  const void* factors;  // (blocks, inputs / group, factors, 16) of fp16 or fp32: scales, then leasts
  std::size_t outputs, inputs;
};

// Computes out[row * stride + output] for output blocks [begin, end).
using Kernel = void (*)(const Rows& rows, const Packed& matrix, float* out, std::size_t stride, std::size_t begin,
                        std::size_t end);
// Fills in row `row` of the levels of x.
using Quantize = void (*)(Rows& rows, std::size_t row);

// What a layer does between its matrices; see elementwise_kernels.inc.
struct Elementwise {
  void (*rms_norm)(const float* x, const float* weight, float eps, std::size_t n, float* out);
  void (*add)(const float* x, std::size_t n, float* to);
  void (*rotate)(float* x, const float* cosines, const float* sines, std::size_t half);
  void (*silu_gate)(float* gate, const float* up, std::size_t n);
  void (*gelu_gate)(float* gate, const float* up, std::size_t n);
};

struct Kernels {
  const char* name;
  std::size_t tiled_rows;  // from which on rows of 24 bits are multiplied as tiles
  Quantize quantize;
  Elementwise elementwise;
  Kernel f32, bf16;
  Kernel level8[2], level8_fine[2], level8_least[2], level4[2], level4_wide[2];  // by x of 8 bits or of 24

  Kernel of(Kind kind, int bits) const;
};

const Kernels& kernels_amx();
const Kernels& kernels_avx512();
const Kernels& kernels_avx2();
const Kernels& kernels_portable();

// The best set that this processor runs, or the one that TOKLOOM_KERNELS ("amx", "avx512", "avx2", "portable")
// asks for.
const Kernels& kernels();

// A matrix (outputs, inputs) in packed form. Immutable, so that threads may share it.
class PackedMatrix {
 public:
  // From floats, (outputs, inputs) row-major. Inputs must be a multiple of 32 for kinds with levels.
  // prompt_bits: 24 or 8, what more than kManyRows rows are rounded to; fewer have 24 bits, so that a token's result
  // does not depend on what else is in its pass. Of no effect on f32 and bf16.
  PackedMatrix(const float* weights, std::size_t outputs, std::size_t inputs, Kind kind, int prompt_bits,
               int threads);
  // From the blocks of a GGUF tensor, row by row, value for value. `type` is ggml's number; `kind_of_gguf` must know it.
  PackedMatrix(const std::uint8_t* blocks, int type, std::size_t outputs, std::size_t inputs, int prompt_bits,
               int threads);

  // out[row * stride + output] = rows W^T, on torch's threads.
  void apply(Rows& rows, float* out, std::size_t stride, int threads) const;
  // Part of it: output blocks [begin, end), once `prepare` has quantized the rows if need be.
  void prepare(Rows& rows, int threads, ParallelFor split) const;
  void apply(const Rows& rows, float* out, std::size_t stride, std::size_t begin, std::size_t end) const;
  // The matrix as the kernels see it, (outputs, inputs).
  void unpack(float* weights) const;

  std::size_t outputs() const { return outputs_; }
  std::size_t inputs() const { return inputs_; }
  std::size_t blocks() const { return (outputs_ + kBlock - 1) / kBlock; }
  std::size_t bytes() const { return data_bytes_ + factor_bytes_; }
  Kind kind() const { return kind_; }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  void allocate();
  int bits(std::size_t rows) const { return rows > kManyRows ? prompt_bits_ : 24; }

  std::size_t outputs_, inputs_, data_bytes_ = 0, factor_bytes_ = 0;
  Kind kind_;
  int prompt_bits_;
  std::unique_ptr<char, Free> data_, factors_;
};

}  // namespace tokloom
