#include "linear/packing.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace tokloom {

float from_half(std::uint16_t bits) {
  const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000) << 16;
  const std::uint32_t exponent = bits >> 10 & 31, fraction = bits & 1023;
  std::uint32_t wide;
  if (exponent == 31) {
    wide = sign | 0x7F800000 | fraction << 13;
  } else if (exponent > 0) {
    wide = sign | (exponent + 112) << 23 | fraction << 13;
  } else {
    const float small = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -small : small;
  }
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

std::uint16_t to_half(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const float size = std::fabs(value);
  if (std::isnan(value)) return static_cast<std::uint16_t>(sign | 0x7E00);
  if (size >= 65520) return static_cast<std::uint16_t>(sign | 0x7C00);
  if (size < 6.103515625e-05f)  // below the least normal one: multiples of 2^-24
    return static_cast<std::uint16_t>(sign | static_cast<std::uint16_t>(std::lrint(std::ldexp(size, 24))));
  bits &= 0x7FFFFFFF;
  return static_cast<std::uint16_t>(sign | (((bits + 0xFFF + (bits >> 13 & 1)) >> 13) - (112 << 10)));
}

std::uint16_t to_bf16(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (std::isnan(value)) return static_cast<std::uint16_t>(bits >> 16 | 64);
  return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
}

namespace {

// A factor as the kind can hold it.
float held(float factor, Kind kind) { return layout(kind).factor_bytes == 2 ? from_half(to_half(factor)) : factor; }

void size(Levels& to, std::size_t inputs, Kind kind) {
  const std::size_t groups = inputs / layout(kind).group;
  to.levels.resize(inputs);
  to.scales.resize(groups);
  to.leasts.resize(groups);
}

// The level nearest to `value`, counted from `zero`.
std::uint8_t nearest(float value, long zero, long most) {
  // NaN and infinity: lrint's result is of no use, and there is no level for them
  return static_cast<std::uint8_t>(std::isfinite(value) ? std::clamp(std::lrint(value) + zero, 0L, most) : 0);
}

}  // namespace

void find_levels(const float* weights, std::size_t inputs, Kind kind, Levels& to) {
  size(to, inputs, kind);
  const Layout form = layout(kind);
  for (std::size_t group = 0; group < to.scales.size(); ++group) {
    const float* from = weights + group * form.group;
    const auto [low, high] = std::minmax_element(from, from + form.group);
    const long most = form.bits == 4 ? 15 : 255;
    float scale, least;
    if (form.factors == 2) {
      least = held(*low, kind);
      scale = held((*high - least) / static_cast<float>(most), kind);
    } else {
      scale = held(std::max(std::fabs(*low), std::fabs(*high)) / 127, kind);
      least = -128 * scale;
    }
    const float inverse = scale > 0 ? 1 / scale : 0;
    to.scales[group] = scale;
    to.leasts[group] = least;
    for (std::size_t k = 0; k < form.group; ++k)
      to.levels[group * form.group + k] =
          form.factors == 2 ? nearest((from[k] - least) * inverse, 0, most) : nearest(from[k] * inverse, 128, most);
  }
}

void pack_floats(const float* weights, std::size_t lanes, std::size_t inputs, Kind kind, char* data) {
  for (std::size_t k = 0; k < inputs; ++k)
    for (std::size_t lane = 0; lane < kBlock; ++lane) {
      const float value = lane < lanes ? weights[lane * inputs + k] : 0.0f;
      if (kind == Kind::f32)
        reinterpret_cast<float*>(data)[k * kBlock + lane] = value;
      else
        reinterpret_cast<std::uint16_t*>(data)[k * kBlock + lane] = to_bf16(value);
    }
}

void pack_levels(const Levels* rows, std::size_t lanes, std::size_t inputs, Kind kind, char* data, char* factors) {
  const Layout form = layout(kind);
  auto* bytes = reinterpret_cast<std::uint8_t*>(data);
  if (lanes < kBlock) {
    std::memset(data, 0, inputs * kBlock * form.bits / 8);
    std::memset(factors, 0, inputs / form.group * form.factors * kBlock * form.factor_bytes);
  }
  for (std::size_t lane = 0; lane < lanes; ++lane) {
    const std::uint8_t* from = rows[lane].levels.data();
    if (form.bits == 8) {
      for (std::size_t k = 0; k < inputs; k += 4) std::memcpy(bytes + k * kBlock + lane * 4, from + k, 4);
    } else {  // inputs 0 to 15 of a group in the low nibbles, 16 to 31 in the high ones
      for (std::size_t k = 0; k < inputs; k += 32)
        for (std::size_t i = 0; i < 16; ++i)
          bytes[(k / 2 + i / 4 * 4) * kBlock + lane * 4 + i % 4] =
              static_cast<std::uint8_t>(from[k + i] | from[k + 16 + i] << 4);
    }
    for (std::size_t group = 0; group < inputs / form.group; ++group)
      for (std::size_t factor = 0; factor < form.factors; ++factor) {
        const float value = factor ? rows[lane].leasts[group] : rows[lane].scales[group];
        const std::size_t at = (group * form.factors + factor) * kBlock + lane;
        if (form.factor_bytes == 2)
          reinterpret_cast<std::uint16_t*>(factors)[at] = to_half(value);
        else
          reinterpret_cast<float*>(factors)[at] = value;
      }
  }
}

// --- GGUF: the layouts of ggml's block types, as its specification gives them

namespace {

enum Ggml { q4_0 = 2, q4_1 = 3, q5_0 = 6, q5_1 = 7, q8_0 = 8, q4_k = 12, q5_k = 13, q6_k = 14 };

float half_at(const std::uint8_t* p) {
  std::uint16_t bits;
  std::memcpy(&bits, p, 2);
  return from_half(bits);
}

// The eight 6-bit scales and leasts of a super-block of Q4_K and Q5_K, in 12 bytes.
void scale_and_least(const std::uint8_t* packed, std::size_t j, float& scale, float& least) {
  if (j < 4) {
    scale = static_cast<float>(packed[j] & 63);
    least = static_cast<float>(packed[j + 4] & 63);
  } else {
    scale = static_cast<float>((packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4);
    least = static_cast<float>((packed[j + 4] >> 4) | (packed[j] >> 6) << 4);
  }
}

struct BlockType {
  std::size_t inputs, bytes;
};

BlockType block_type(int type) {
  switch (type) {
    case q4_0: return {32, 18};
    case q4_1: return {32, 20};
    case q5_0: return {32, 22};
    case q5_1: return {32, 24};
    case q8_0: return {32, 34};
    case q4_k: return {256, 144};
    case q5_k: return {256, 176};
    case q6_k: return {256, 210};
    default: return {0, 0};
  }
}

}  // namespace

std::optional<Kind> kind_of_gguf(int type) {
  switch (type) {
    case q4_0:
    case q4_1: return Kind::level4;
    case q5_0:
    case q8_0: return Kind::level8;
    case q5_1:
    case q5_k: return Kind::level8_least;
    case q4_k: return Kind::level4_wide;
    case q6_k: return Kind::level8_fine;
    default: return std::nullopt;
  }
}

std::size_t gguf_row_bytes(int type, std::size_t inputs) {
  const BlockType block = block_type(type);
  return block.inputs && inputs % block.inputs == 0 ? inputs / block.inputs * block.bytes : 0;
}

void read_gguf_row(const std::uint8_t* blocks, int type, std::size_t inputs, Levels& to) {
  size(to, inputs, *kind_of_gguf(type));
  const BlockType block = block_type(type);
  for (std::size_t b = 0; b < inputs / block.inputs; ++b) {
    const std::uint8_t* p = blocks + b * block.bytes;
    std::uint8_t* level = to.levels.data() + b * block.inputs;
    if (type == q4_k || type == q5_k) {
      const float d = half_at(p), m = half_at(p + 2);
      const std::uint8_t* high = p + 16;
      const std::uint8_t* low = p + (type == q5_k ? 48 : 16);
      for (std::size_t j = 0; j < 8; ++j) {
        float scale, least;
        scale_and_least(p + 4, j, scale, least);
        to.scales[b * 8 + j] = d * scale;
        to.leasts[b * 8 + j] = -(m * least);
        for (std::size_t i = 0; i < 32; ++i) {
          const int nibble = low[j / 2 * 32 + i] >> (j % 2 * 4) & 15;
          const int fifth = type == q5_k ? (high[i] >> j & 1) << 4 : 0;
          level[j * 32 + i] = static_cast<std::uint8_t>(nibble | fifth);
        }
      }
    } else if (type == q6_k) {
      const std::uint8_t* high = p + 128;
      const auto* scales = reinterpret_cast<const std::int8_t*>(p + 192);
      const float d = half_at(p + 208);
      for (std::size_t i = 0; i < 16; ++i) {
        to.scales[b * 16 + i] = d * static_cast<float>(scales[i]);
        to.leasts[b * 16 + i] = -128 * to.scales[b * 16 + i];
      }
      for (std::size_t k = 0; k < 256; ++k) {
        const std::size_t half = k / 128, quarter = k % 128 / 32, i = k % 32;
        const int four = p[half * 64 + quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
        const int two = high[half * 32 + i] >> (quarter * 2) & 3;
        level[k] = static_cast<std::uint8_t>((four | two << 4) - 32 + 128);
      }
    } else {
      const bool with_least = type == q4_1 || type == q5_1, fifth_bits = type == q5_0 || type == q5_1;
      const float d = half_at(p);
      const std::uint8_t* rest = p + (with_least ? 4 : 2);
      std::uint32_t fifth = 0;
      if (fifth_bits) {
        std::memcpy(&fifth, rest, 4);
        rest += 4;
      }
      to.scales[b] = d;
      to.leasts[b] = with_least ? half_at(p + 2) : type == q4_0 ? -8 * d : -128 * d;
      for (std::size_t i = 0; i < 32; ++i) {
        int value;
        if (type == q8_0)
          value = static_cast<std::int8_t>(rest[i]) + 128;
        else
          value = (rest[i % 16] >> (i / 16 * 4) & 15) | (fifth >> i & 1) << 4;
        if (type == q5_0) value += 128 - 16;
        level[i] = static_cast<std::uint8_t>(value);
      }
    }
  }
}

}  // namespace tokloom
