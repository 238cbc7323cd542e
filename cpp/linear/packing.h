// Turns floats and GGUF blocks into packed blocks of 16 outputs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "linear/linear.h"

namespace tokloom {

float from_half(std::uint16_t bits);
std::uint16_t to_half(float value);  // to nearest, ties to even; beyond its range infinity
std::uint16_t to_bf16(float value);

// One output's weights as levels: weight k is scales[k / group] * levels[k] + leasts[k / group].
struct Levels {
  std::vector<std::uint8_t> levels;
  std::vector<float> scales, leasts;
};

// The levels nearest to `inputs` floats, for a kind that has levels.
void find_levels(const float* weights, std::size_t inputs, Kind kind, Levels& to);

// GGUF: a tensor's type by ggml's number. The kind that holds all its values exactly; none if there is none.
std::optional<Kind> kind_of_gguf(int type);
// Bytes of a row of a type that `kind_of_gguf` knows; 0 if it can't have that many inputs.
std::size_t gguf_row_bytes(int type, std::size_t inputs);
void read_gguf_row(const std::uint8_t* blocks, int type, std::size_t inputs, Levels& to);

// Writes one block; `rows` has one entry for each of its outputs, at most 16.
void pack_levels(const Levels* rows, std::size_t lanes, std::size_t inputs, Kind kind, char* data, char* factors);
void pack_floats(const float* weights, std::size_t lanes, std::size_t inputs, Kind kind, char* data);

}  // namespace tokloom
