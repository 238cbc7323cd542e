#include "grammar/vocabulary_index.h"

#include <algorithm>

namespace tokloom {

namespace {

// Every punctuation mark is a kind by itself, letters and parts of other characters come in groups.
uint8_t kind_of(unsigned byte) {
  if (byte == 0xE2) return 45;  // general punctuation: line separators, which some sets leave out
  if (byte >= 0xF0) return 0;
  if (byte >= 0xE0) return 1;
  if (byte >= 0xC0) return 2;
  if (byte >= 0x80) return 3;
  if (byte >= 'a' && byte <= 'z') return 4;
  if (byte >= 'A' && byte <= 'Z') return 5;
  if (byte >= '0' && byte <= '9') return 6;
  if (byte == '\t') return 7;
  if (byte == '\n') return 8;
  if (byte == '\r') return 9;
  if (byte < 0x20) return 10;
  if (byte == 0x7F) return 11;
  if (byte < '0') return static_cast<uint8_t>(12 + byte - 0x20);  // 16 of them
  if (byte < 'A') return static_cast<uint8_t>(28 + byte - 0x3A);  // 7
  if (byte < 'a') return static_cast<uint8_t>(35 + byte - 0x5B);  // 6
  return static_cast<uint8_t>(41 + byte - 0x7B);                  // 4
}

}  // namespace

uint8_t Utf8::next(uint8_t state, unsigned byte) {
  const bool more = byte >= 0x80 && byte <= 0xBF;
  switch (state) {
    case 0:
      if (byte < 0x80) return 0;
      if (byte >= 0xC2 && byte <= 0xDF) return 1;
      if (byte == 0xE0) return 4;
      if (byte == 0xED) return 5;
      if (byte >= 0xE1 && byte <= 0xEF) return 2;
      if (byte == 0xF0) return 6;
      if (byte == 0xF4) return 7;
      if (byte >= 0xF1 && byte <= 0xF3) return 3;
      return kBad;
    case 4:
      return more && byte >= 0xA0 ? 1 : kBad;
    case 5:
      return more && byte <= 0x9F ? 1 : kBad;
    case 6:
      return more && byte >= 0x90 ? 2 : kBad;
    case 7:
      return more && byte <= 0x8F ? 2 : kBad;
    default:
      return more ? static_cast<uint8_t>(state - 1) : kBad;
  }
}

VocabularyIndex::VocabularyIndex(const ByteTrie& trie) : trie_(trie) {
  const uint32_t nodes = trie.nodes();
  first_child_.reserve(nodes + 1);
  child_byte_.reserve(nodes);
  child_node_.reserve(nodes);
  for (uint32_t n = 0; n < nodes; ++n) {
    first_child_.push_back(static_cast<uint32_t>(child_node_.size()));
    for (uint32_t child = n + 1; child < trie.end(n); child = trie.end(child)) {
      child_byte_.push_back(trie.node(child).byte);
      child_node_.push_back(child);
    }
    if (n > 0) alphabet_.set(trie.node(n).byte);
  }
  first_child_.push_back(static_cast<uint32_t>(child_node_.size()));
  kinds_.assign(nodes, 0);
  height_.assign(nodes, 0);
  character_height_.assign(nodes, 0);
  character_depth_.assign(nodes, 0);
  const auto begins = [](uint8_t byte) { return (byte & 0xC0) != 0x80 ? 1u : 0u; };
  for (uint32_t n = 0; n < nodes; ++n) {
    for (uint32_t i = children_begin(n); i < children_end(n); ++i) {
      character_depth_[child_node(i)] = character_depth_[n] + begins(child_byte(i));
    }
  }
  well_formed_.assign(nodes, 0xFF);
  for (uint32_t n = nodes; n-- > 0;) {
    for (uint32_t i = children_begin(n); i < children_end(n); ++i) {
      kinds_[n] |= kinds_[child_node(i)] | uint64_t{1} << kind_of(child_byte(i));
      height_[n] = std::max(height_[n], height_[child_node(i)] + 1);
      character_height_[n] =
          std::max(character_height_[n], character_height_[child_node(i)] + begins(child_byte(i)));
      for (uint8_t state = 0; state < Utf8::kStates; ++state) {
        const uint8_t next = Utf8::next(state, child_byte(i));
        if (next == Utf8::kBad || (well_formed_[child_node(i)] >> next & 1) == 0) {
          well_formed_[n] = static_cast<uint8_t>(well_formed_[n] & ~(1u << state));
        }
      }
    }
  }
  for (uint8_t& states : well_formed_) states &= 1;
  longest_ = height_[0];
  alphabet_.each([&](uint8_t byte) {
    members_[kind_of(byte)].set(byte);
    writes_all_ = writes_all_ && byte_token(byte) != ByteTrie::kNone;
  });
}

uint32_t VocabularyIndex::child(uint32_t n, uint8_t byte) const {
  if (n == 0) return trie_.child(0, byte);
  const uint32_t begin = children_begin(n);
  const uint32_t end = children_end(n);
  if (end - begin <= 8) {
    for (uint32_t i = begin; i < end; ++i) {
      if (child_byte_[i] == byte) return child_node_[i];
    }
    return ByteTrie::kNone;
  }
  const auto first = child_byte_.begin() + begin;
  const auto place = std::lower_bound(first, child_byte_.begin() + end, byte);
  if (place == child_byte_.begin() + end || *place != byte) return ByteTrie::kNone;
  return child_node_[begin + static_cast<uint32_t>(place - first)];
}

uint64_t VocabularyIndex::kinds_within(const ByteSet& set) const {
  uint64_t within = 0;
  for (int kind = 0; kind < 64; ++kind) {
    if (members_[kind].without(set).empty()) within |= uint64_t{1} << kind;
  }
  return within;
}

uint32_t VocabularyIndex::byte_token(uint8_t byte) const {
  const uint32_t node = trie_.child(0, byte);
  if (node == ByteTrie::kNone || trie_.keys_begin(node) == trie_.keys_end(node)) return ByteTrie::kNone;
  return *trie_.keys_begin(node);
}

}  // namespace tokloom
