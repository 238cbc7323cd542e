// y = x W^T for packed weights: one kernel for one row (decoding), a draft tree's rows or a prompt chunk's.
//
// Packed layout: the outputs in blocks of 16; a block holds, input by input, its 16 weights side by
// side. So a block is one stream of memory, a weight that was read serves all rows of a tile, and no
// register has to be summed up across its lanes. Quantized formats are widened to float in registers.
// Every 32 inputs of an output share a scale, kept per block as (inputs / 32, 16) floats: int8 is
// scale * level, level -127 to 127. int4 is scale * level + least, level 0 to 15, and keeps (inputs / 32,
// 2, 16) floats, scales and leasts: what GGUF's Q4_1 holds is taken over without loss.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace tokloom {

enum class Format { f32, bf16, int8, int4 };

constexpr std::size_t kBlock = 16;   // outputs of a block
constexpr std::size_t kGroup = 32;   // inputs that share a scale

// Computes out (rows, outputs) for output blocks [begin, end). All row-major float; `data` and `scales` are packed;
// sums (rows, inputs / 32) are those of x over each group, for formats that need them.
using Kernel = void (*)(const float* x, std::size_t rows, std::size_t inputs, const void* data, const float* scales,
                        const float* sums, std::size_t outputs, float* out, std::size_t begin, std::size_t end);

struct Kernels {
  const char* name;
  Kernel f32, bf16, int8, int4;
};

const Kernels& kernels_avx512();
const Kernels& kernels_avx2();
const Kernels& kernels_portable();

// The best set that this processor runs, or the one that TOKLOOM_KERNELS ("avx512", "avx2", "portable") asks for.
const Kernels& kernels();

// A matrix (outputs, inputs) in packed form. Immutable, so that threads may share it.
class PackedMatrix {
 public:
  // weights: (outputs, inputs) row-major. Inputs must be a multiple of 32 for int8 and int4.
  PackedMatrix(const float* weights, std::size_t outputs, std::size_t inputs, Format format, int threads);

  // out (rows, outputs) = x (rows, inputs) * W^T
  void apply(const float* x, std::size_t rows, float* out, int threads) const;
  // The matrix as the kernels see it, (outputs, inputs).
  void unpack(float* weights) const;

  std::size_t outputs() const { return outputs_; }
  std::size_t inputs() const { return inputs_; }
  std::size_t bytes() const { return data_bytes_ + scale_count_ * sizeof(float); }
  Format format() const { return format_; }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  std::size_t blocks() const { return (outputs_ + kBlock - 1) / kBlock; }

  std::size_t outputs_, inputs_, data_bytes_ = 0, scale_count_ = 0;
  Format format_;
  std::unique_ptr<void, Free> data_;
  std::unique_ptr<float, Free> scales_;
};

}  // namespace tokloom
