// What walks of the vocabulary's trie need beside it: children by byte, and what lies below each node.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "grammar/byte_set.h"
#include "grammar/token_trie.h"

namespace tokloom {

// States of reading UTF-8: 0 between characters, 1 to 3 so many bytes short of one, then those whose next
// byte is restricted. kBad: not UTF-8.
struct Utf8 {
  static constexpr uint8_t kBad = 255;
  static constexpr uint8_t kStates = 8;
  static uint8_t next(uint8_t state, unsigned byte);
};

class VocabularyIndex {
 public:
  // Keeps a reference to the trie.
  explicit VocabularyIndex(const ByteTrie& trie);

  const ByteTrie& trie() const { return trie_; }
  size_t words() const { return (trie_.size() + 31) / 32; }  // of a bitmask
  // Bytes that occur in tokens.
  const ByteSet& alphabet() const { return alphabet_; }
  // Every byte of the alphabet is a token by itself, so that every string over it can be written.
  bool writes_all() const { return writes_all_; }
  uint32_t longest() const { return longest_; }

  // Children of node n, ascending by byte: child_byte(i), child_node(i) for i in [first, last).
  uint32_t children_begin(uint32_t n) const { return first_child_[n]; }
  uint32_t children_end(uint32_t n) const { return first_child_[n + 1]; }
  uint8_t child_byte(uint32_t i) const { return child_byte_[i]; }
  uint32_t child_node(uint32_t i) const { return child_node_[i]; }
  uint32_t child(uint32_t n, uint8_t byte) const;

  // Kinds of bytes that occur below node n (its own byte not included), a bit each.
  uint64_t kinds_below(uint32_t n) const { return kinds_[n]; }
  // The kinds all of whose bytes of the alphabet are in the set.
  uint64_t kinds_within(const ByteSet& set) const;
  // The kind of bytes that begin no character but continue one, and the bytes of a kind.
  static constexpr int kContinuation = 3;
  static constexpr int kKinds = 46;
  static constexpr uint64_t kBeyondAscii = uint64_t{0xF} | uint64_t{1} << 45;
  const ByteSet& members(int kind) const { return members_[kind]; }
  // What follows node n in every token is UTF-8, but for a character that is cut off by the token's end.
  bool well_formed_below(uint32_t n) const { return well_formed_[n] != 0; }
  // Bytes from node n to the deepest below it.
  uint32_t height(uint32_t n) const { return height_[n]; }

  // The same in characters: bytes that begin one. And how many there are from the root to node n.
  uint32_t height_in_characters(uint32_t n) const { return character_height_[n]; }
  uint32_t depth_in_characters(uint32_t n) const { return character_depth_[n]; }

  // A token that is one byte, or kNone.
  uint32_t byte_token(uint8_t byte) const;

 private:
  const ByteTrie& trie_;
  std::vector<uint32_t> first_child_;
  std::vector<uint8_t> child_byte_;
  std::vector<uint32_t> child_node_;
  std::vector<uint64_t> kinds_;
  std::vector<uint32_t> height_;
  std::vector<uint32_t> character_height_;
  std::vector<uint32_t> character_depth_;
  std::vector<uint8_t> well_formed_;  // by node; while it is made, a bit for each state of Utf8
  ByteSet alphabet_;
  ByteSet members_[64];  // bytes of each kind
  uint32_t longest_ = 0;
  bool writes_all_ = true;
};

}  // namespace tokloom
