// A set of bytes.
#pragma once

#include <cstdint>

namespace tokloom {

struct ByteSet {
  uint64_t word[4] = {0, 0, 0, 0};

  bool test(unsigned byte) const { return (word[byte >> 6] >> (byte & 63) & 1) != 0; }
  void set(unsigned byte) { word[byte >> 6] |= uint64_t{1} << (byte & 63); }
  void set_range(unsigned first, unsigned last) {
    for (unsigned byte = first; byte <= last; ++byte) set(byte);
  }
  bool empty() const { return (word[0] | word[1] | word[2] | word[3]) == 0; }
  unsigned count() const {
    return static_cast<unsigned>(__builtin_popcountll(word[0]) + __builtin_popcountll(word[1]) +
                                 __builtin_popcountll(word[2]) + __builtin_popcountll(word[3]));
  }
  // How many members are less than `byte`.
  unsigned rank(unsigned byte) const {
    unsigned below = 0;
    for (unsigned w = 0; w < byte >> 6; ++w) below += static_cast<unsigned>(__builtin_popcountll(word[w]));
    return below + static_cast<unsigned>(__builtin_popcountll(word[byte >> 6] & ((uint64_t{1} << (byte & 63)) - 1)));
  }
  unsigned first() const {  // of a set that is not empty
    for (unsigned w = 0;; ++w) {
      if (word[w] != 0) return w * 64 + static_cast<unsigned>(__builtin_ctzll(word[w]));
    }
  }
  ByteSet& operator|=(const ByteSet& other) {
    for (int w = 0; w < 4; ++w) word[w] |= other.word[w];
    return *this;
  }
  ByteSet& operator&=(const ByteSet& other) {
    for (int w = 0; w < 4; ++w) word[w] &= other.word[w];
    return *this;
  }
  ByteSet without(const ByteSet& other) const {
    ByteSet rest;
    for (int w = 0; w < 4; ++w) rest.word[w] = word[w] & ~other.word[w];
    return rest;
  }
  bool operator==(const ByteSet& other) const {
    return word[0] == other.word[0] && word[1] == other.word[1] && word[2] == other.word[2] &&
           word[3] == other.word[3];
  }
  template <class Visit>
  void each(Visit&& visit) const {
    for (unsigned w = 0; w < 4; ++w) {
      for (uint64_t bits = word[w]; bits != 0; bits &= bits - 1) {
        visit(static_cast<uint8_t>(w * 64 + static_cast<unsigned>(__builtin_ctzll(bits))));
      }
    }
  }
};

}  // namespace tokloom
