#include "linear.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "pool.h"

namespace tokloom {
namespace {

std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 64);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
}

// The rows of one block: `lanes` outputs (16 but in the last block) of `inputs` weights each.
struct Source {
  const float* rows;
  std::size_t inputs, lanes;
  float at(std::size_t lane, std::size_t k) const { return rows[lane * inputs + k]; }
};

void pack_f32(const Source& from, float* to) {
  for (std::size_t k = 0; k < from.inputs; ++k)
    for (std::size_t lane = 0; lane < from.lanes; ++lane) to[k * kBlock + lane] = from.at(lane, k);
}

void pack_bf16(const Source& from, std::uint16_t* to) {
  for (std::size_t k = 0; k < from.inputs; ++k)
    for (std::size_t lane = 0; lane < from.lanes; ++lane) to[k * kBlock + lane] = to_bf16(from.at(lane, k));
}

// The weight of largest magnitude in a group, with its sign.
float peak_of(const Source& from, std::size_t lane, std::size_t group) {
  float peak = 0;
  for (std::size_t k = group * kGroup; k < (group + 1) * kGroup; ++k)
    if (std::fabs(from.at(lane, k)) > std::fabs(peak)) peak = from.at(lane, k);
  return peak;
}

void pack_int8(const Source& from, std::int8_t* to, float* scales) {
  for (std::size_t group = 0; group < from.inputs / kGroup; ++group)
    for (std::size_t lane = 0; lane < from.lanes; ++lane) {
      const float scale = std::fabs(peak_of(from, lane, group)) / 127;
      const float inverse = scale > 0 ? 1 / scale : 0;
      scales[group * kBlock + lane] = scale;
      for (std::size_t k = group * kGroup; k < (group + 1) * kGroup; ++k)
        to[k * kBlock + lane] = static_cast<std::int8_t>(std::clamp(std::lrint(from.at(lane, k) * inverse), -127L, 127L));
    }
}

void pack_int4(const Source& from, std::uint8_t* to, float* factors) {
  for (std::size_t group = 0; group < from.inputs / kGroup; ++group)
    for (std::size_t lane = 0; lane < from.lanes; ++lane) {
      float least = from.at(lane, group * kGroup), most = least;
      for (std::size_t k = group * kGroup; k < (group + 1) * kGroup; ++k) {
        least = std::min(least, from.at(lane, k));
        most = std::max(most, from.at(lane, k));
      }
      const float scale = (most - least) / 15;
      const float inverse = scale > 0 ? 1 / scale : 0;
      factors[group * 2 * kBlock + lane] = scale;
      factors[(group * 2 + 1) * kBlock + lane] = least;
      const auto level = [&](std::size_t k) {
        return std::clamp(std::lrint((from.at(lane, k) - least) * inverse), 0L, 15L);
      };
      for (std::size_t k = group * kGroup; k < (group + 1) * kGroup; k += 2)
        to[k / 2 * kBlock + lane] = static_cast<std::uint8_t>(level(k) | level(k + 1) << 4);
    }
}

constexpr std::size_t kHugePage = std::size_t{1} << 21;

// Memory of at least `bytes`, not cleared. Large blocks ask for huge pages: weights are read from end to end again and
// again, and with pages of 4 KiB a good part of that is looking up addresses.
void* allocate(std::size_t bytes) {
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const std::size_t size = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, size);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);
#endif
  return memory;
}

const Kernels& choose() {
  const char* asked = std::getenv("TOKLOOM_KERNELS");
  const std::string name = asked ? asked : "";
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && (name.empty() || name == "avx512")) return kernels_avx512();
  if (avx2 && name != "portable") return kernels_avx2();
#endif
  return kernels_portable();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

void PackedMatrix::Free::operator()(void* p) const { std::free(p); }

PackedMatrix::PackedMatrix(const float* weights, std::size_t outputs, std::size_t inputs, Format format,
                           int threads)
    : outputs_(outputs), inputs_(inputs), format_(format) {
  const bool scaled = format == Format::int8 || format == Format::int4;
  if (scaled && inputs % kGroup) throw std::invalid_argument("inputs must be a multiple of 32 for int8 and int4");
  const std::size_t stride = format == Format::f32 ? 64 : format == Format::bf16 ? 32 : format == Format::int8 ? 16 : 8;
  const std::size_t factors = (scaled ? inputs / kGroup : 0) * (format == Format::int4 ? 2 : 1);
  data_bytes_ = blocks() * inputs * stride;
  scale_count_ = blocks() * factors * kBlock;
  data_.reset(allocate(data_bytes_));
  scales_.reset(static_cast<float*>(allocate(scale_count_ * sizeof(float))));
  parallel_for(blocks(), 4, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t block = begin; block < end; ++block) {
      const Source source{weights + block * kBlock * inputs, inputs, std::min(kBlock, outputs - block * kBlock)};
      char* data = static_cast<char*>(data_.get()) + block * inputs * stride;
      float* scales = scales_.get() + block * factors * kBlock;
      if (source.lanes < kBlock) {
        std::memset(data, 0, inputs * stride);
        std::fill_n(scales, factors * kBlock, 0.0f);
      }
      switch (format) {
        case Format::f32: pack_f32(source, reinterpret_cast<float*>(data)); break;
        case Format::bf16: pack_bf16(source, reinterpret_cast<std::uint16_t*>(data)); break;
        case Format::int8: pack_int8(source, reinterpret_cast<std::int8_t*>(data), scales); break;
        case Format::int4: pack_int4(source, reinterpret_cast<std::uint8_t*>(data), scales); break;
      }
    }
  });
}

void PackedMatrix::apply(const float* x, std::size_t rows, float* out, int threads) const {
  const Kernels& set = kernels();
  const Kernel kernel = format_ == Format::f32    ? set.f32
                        : format_ == Format::bf16 ? set.bf16
                        : format_ == Format::int8 ? set.int8
                                                  : set.int4;
  std::vector<float> sums;
  if (format_ == Format::int4) {
    const std::size_t groups = inputs_ / kGroup;
    sums.resize(rows * groups);
    for (std::size_t i = 0; i < sums.size(); ++i) sums[i] = std::accumulate(x + i * kGroup, x + (i + 1) * kGroup, 0.0f);
  }
  parallel_for(blocks(), 4, threads, [&](std::size_t begin, std::size_t end) {
    kernel(x, rows, inputs_, data_.get(), scales_.get(), sums.data(), outputs_, out, begin, end);
  });
}

void PackedMatrix::unpack(float* weights) const {
  std::unique_ptr<float[]> unit(new float[inputs_]());
  std::unique_ptr<float[]> column(new float[outputs_]);
  for (std::size_t k = 0; k < inputs_; ++k) {
    unit[k] = 1;
    apply(unit.get(), 1, column.get(), 1);
    unit[k] = 0;
    for (std::size_t output = 0; output < outputs_; ++output) weights[output * inputs_ + k] = column[output];
  }
}

}  // namespace tokloom
