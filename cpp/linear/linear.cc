#include "linear/linear.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "linear/packing.h"

namespace tokloom {
namespace {

constexpr std::size_t kHugePage = std::size_t{1} << 21;

// Memory of at least `bytes`, not cleared. Large blocks ask for huge pages: weights are read from end to end again and
// again, and with pages of 4 KiB a good part of that is looking up addresses.
char* aligned(std::size_t bytes) {
  const std::size_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const std::size_t size = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, size);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  if (alignment == kHugePage) madvise(memory, size, MADV_HUGEPAGE);
#endif
  return static_cast<char*>(memory);
}

#if defined(__x86_64__)
// The processor multiplies tiles of bfloat16, and the system lets this process use them.
bool tiles_allowed() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr unsigned kBfloat = 1u << 22, kTiles = 1u << 24;  // of leaf 7, edx
  constexpr long kRequest = 0x1023, kTileData = 18;          // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kBfloat) || !(d & kTiles)) return false;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
  return false;
#endif
}
#endif

const Kernels& choose() {
  const char* asked = std::getenv("TOKLOOM_KERNELS");
  const std::string name = asked ? asked : "";
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
  if (avx512 && (name.empty() || name == "amx") && tiles_allowed()) return kernels_amx();
  if (avx512 && (name.empty() || name == "amx" || name == "avx512")) return kernels_avx512();
  if (avx2 && name != "portable") return kernels_avx2();
#endif
  return kernels_portable();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

Kernel Kernels::of(Kind kind, int bits) const {
  const std::size_t precision = bits == 24 ? 1 : 0;
  switch (kind) {
    case Kind::f32: return f32;
    case Kind::bf16: return bf16;
    case Kind::level8: return level8[precision];
    case Kind::level8_fine: return level8_fine[precision];
    case Kind::level8_least: return level8_least[precision];
    case Kind::level4: return level4[precision];
    case Kind::level4_wide: return level4_wide[precision];
  }
  return nullptr;
}

void PackedMatrix::Free::operator()(void* p) const { std::free(p); }

void PackedMatrix::allocate() {
  const Layout form = layout(kind_);
  if (form.group && inputs_ % kGroup) throw std::invalid_argument("inputs must be a multiple of 32 for levels");
  data_bytes_ = blocks() * inputs_ * kBlock * form.bits / 8;
  if (form.group) factor_bytes_ = blocks() * inputs_ / form.group * form.factors * kBlock * form.factor_bytes;
  data_.reset(aligned(data_bytes_));
  factors_.reset(aligned(factor_bytes_));
}

PackedMatrix::PackedMatrix(const float* weights, std::size_t outputs, std::size_t inputs, Kind kind,
                           int prompt_bits, int threads)
    : outputs_(outputs), inputs_(inputs), kind_(kind), prompt_bits_(prompt_bits) {
  allocate();
  const bool levels = layout(kind).group > 0;
  parallel_for(blocks(), 4, threads, [&](std::size_t begin, std::size_t end) {
    Levels rows[kBlock];
    for (std::size_t block = begin; block < end; ++block) {
      const float* from = weights + block * kBlock * inputs;
      const std::size_t lanes = std::min(kBlock, outputs - block * kBlock);
      char* data = data_.get() + data_bytes_ / blocks() * block;
      if (!levels) {
        pack_floats(from, lanes, inputs, kind, data);
        continue;
      }
      for (std::size_t lane = 0; lane < lanes; ++lane) find_levels(from + lane * inputs, inputs, kind, rows[lane]);
      pack_levels(rows, lanes, inputs, kind, data, factors_.get() + factor_bytes_ / blocks() * block);
    }
  });
}

PackedMatrix::PackedMatrix(const std::uint8_t* gguf, int type, std::size_t outputs, std::size_t inputs,
                           int prompt_bits, int threads)
    : outputs_(outputs), inputs_(inputs), kind_(kind_of_gguf(type).value()), prompt_bits_(prompt_bits) {
  allocate();
  const std::size_t row_bytes = gguf_row_bytes(type, inputs);
  parallel_for(blocks(), 4, threads, [&](std::size_t begin, std::size_t end) {
    Levels rows[kBlock];
    for (std::size_t block = begin; block < end; ++block) {
      const std::size_t lanes = std::min(kBlock, outputs - block * kBlock);
      for (std::size_t lane = 0; lane < lanes; ++lane)
        read_gguf_row(gguf + (block * kBlock + lane) * row_bytes, type, inputs, rows[lane]);
      pack_levels(rows, lanes, inputs, kind_, data_.get() + data_bytes_ / blocks() * block,
                  factors_.get() + factor_bytes_ / blocks() * block);
    }
  });
}

void PackedMatrix::prepare(Rows& rows, int threads, ParallelFor split) const {
  constexpr std::size_t kGrain = 4;  // rows
  const Kernels& set = kernels();
  const bool levels = layout(kind_).group > 0;
  const int wanted = levels ? bits(rows.rows) : 24;
  const std::size_t least = kind_ == Kind::bf16 ? 2 * set.tiled_rows : set.tiled_rows;
  const bool tiled = wanted == 24 && kind_ != Kind::f32 && rows.rows >= least;
  if (!tiled && (!levels || (wanted == 24 && rows.rows > kFewRows))) return;  // multiplied as floats
  if (rows.bits == wanted && rows.tiled == tiled) return;
  rows.bits = wanted;
  rows.tiled = tiled;
  if (tiled) {  // whole tiles; three halves an input
    const std::size_t places = (rows.rows + 15) / 16 * 16, groups = (inputs_ + kGroup - 1) / kGroup;
    rows.levels.reserve(places * groups * kGroup * 6);
    rows.sums.reserve(places * groups);
  } else {
    rows.levels.reserve(rows.rows * inputs_ * 4);
    rows.scales.reserve(rows.rows * inputs_ / kGroup);
    rows.shifts.reserve(rows.rows * kParts * inputs_ / 16);
    rows.sums.reserve(rows.rows * inputs_ / 16);
  }
  split(rows.rows, kGrain, threads, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) set.quantize(rows, row);
  });
}

void PackedMatrix::apply(const Rows& rows, float* out, std::size_t stride, std::size_t begin, std::size_t end) const {
  const Packed packed{data_.get(), factors_.get(), outputs_, inputs_};
  kernels().of(kind_, bits(rows.rows))(rows, packed, out, stride, begin, end);
}

void PackedMatrix::apply(Rows& rows, float* out, std::size_t stride, int threads) const {
  prepare(rows, threads, parallel_for_torch);
  parallel_for_torch(blocks(), 4, threads,
                     [&](std::size_t begin, std::size_t end) { apply(rows, out, stride, begin, end); });
}

void PackedMatrix::unpack(float* weights) const {
  const Layout form = layout(kind_);
  for (std::size_t output = 0; output < outputs_; ++output) {
    const std::size_t block = output / kBlock, lane = output % kBlock;
    const char* data = data_.get() + data_bytes_ / blocks() * block;
    const char* factors = factors_.get() + factor_bytes_ / blocks() * block;
    const auto factor = [&](std::size_t group, std::size_t which) {
      const std::size_t at = (group * form.factors + which) * kBlock + lane;
      if (form.factor_bytes == 2) return from_half(reinterpret_cast<const std::uint16_t*>(factors)[at]);
      return reinterpret_cast<const float*>(factors)[at];
    };
    for (std::size_t k = 0; k < inputs_; ++k) {
      float& value = weights[output * inputs_ + k];
      if (kind_ == Kind::f32) {
        value = reinterpret_cast<const float*>(data)[k * kBlock + lane];
      } else if (kind_ == Kind::bf16) {
        const std::uint32_t bits =
            static_cast<std::uint32_t>(reinterpret_cast<const std::uint16_t*>(data)[k * kBlock + lane]) << 16;
        std::memcpy(&value, &bits, sizeof value);
      } else {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(data);
        int level;
        if (form.bits == 8) {
          level = bytes[k / 4 * 4 * kBlock + lane * 4 + k % 4];
        } else {
          const std::size_t start = k / 32 * 32, i = k % 16;
          level = bytes[(start / 2 + i / 4 * 4) * kBlock + lane * 4 + i % 4] >> (k % 32 / 16 * 4) & 15;
        }
        const float scale = factor(k / form.group, 0);
        value = form.factors == 2 ? scale * static_cast<float>(level) + factor(k / form.group, 1)
                                  : scale * static_cast<float>(level - 128);
      }
    }
  }
}

}  // namespace tokloom
