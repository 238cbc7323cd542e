// Which tokens a state of a regular expression allows, whatever comes after it.
//
// From a state, a token either stays in the expression's language up to its last byte, or ends it
// on the way. The first need no parser: they are a mask of the state. For the others the mask keeps
// the trie nodes one byte beyond an end, grouped by this byte, so that a continuation looks only at
// the groups whose byte it can begin with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "grammar/regex.h"
#include "grammar/vocabulary_index.h"

namespace tokloom {

struct StateMask {
  struct Group {  // of trie nodes whose byte is `byte`, and before which the expression may end
    uint8_t byte;
    std::vector<uint32_t> tokens;  // that end at one of them
    std::vector<uint32_t> nodes;   // that have children
    // Without tokens that stay inside on another way, and nodes with only such tokens below.
  };

  bool wide = false;             // as bits, else as a list
  std::vector<uint32_t> words;   // bitmask of the tokens that stay inside
  std::vector<uint32_t> tokens;  // list of them
  std::vector<uint32_t> beyond;  // all nodes of all groups, ascending; kept by wide masks
  std::vector<Group> groups;     // ascending by byte
  ByteSet group_bytes;

  // Places, among the trie's keys, of the tokens that do not stay inside; if `outside_known`.
  std::vector<uint32_t> outside;
  bool outside_known = false;

  // Some token strictly below the node does not stay inside, or it isn't known.
  bool any_outside_below(const ByteTrie& trie, uint32_t node) const {
    if (!outside_known) return true;
    const auto place = std::lower_bound(outside.begin(), outside.end(),
                                        static_cast<uint32_t>(trie.keys_end(node) - trie.sorted_keys().data()));
    return place != outside.end() && *place < trie.subtree_last_place(node);
  }
  size_t memory() const;
};

// The regular expressions of all grammars of a vocabulary, with the masks of their states. Whoever
// calls a method that is not const holds `mutex`; masks don't change or move once they are made.
class MaskCache {
 public:
  // Beyond `limit` bytes it is full, and nobody should begin to use it; for those who do, there is room for a while.
  MaskCache(const VocabularyIndex& index, size_t limit)
      : vocabulary(index), regexes(index.alphabet(), limit + kReserve), limit_(limit) {}

  const StateMask& mask(RegexSet::Id state) { return mask(state, 0); }
  // The same for what lies below a trie's node, at which the state is.
  const StateMask& mask(RegexSet::Id state, uint32_t node);
  // Whether all tokens below the trie's node stay inside, since all their bytes lead the state, whose row this is,
  // back to itself. Ends on the way don't matter then.
  bool stays(RegexSet::Id state, const RegexSet::Row& row, uint32_t node) {
    if (!row.loops_known) find_loops(state, row);
    const uint64_t kinds = vocabulary.kinds_below(node);
    if ((kinds & ~row.loops) == 0 && row.loops_slack >= vocabulary.height(node)) return true;
    return stays_a_while(row, node) && row.loops_slack >= vocabulary.height_in_characters(node);
  }
  // The same for tokens of no more characters below the node than the row's slack.
  bool stays_a_while(const RegexSet::Row& row, uint32_t node) const {
    return (vocabulary.kinds_below(node) & ~row.loops_as_characters) == 0 && vocabulary.well_formed_below(node);
  }
  size_t memory() const { return regexes.memory() + memory_; }
  bool full() const { return memory() > limit_; }

  const VocabularyIndex& vocabulary;
  RegexSet regexes;
  std::mutex mutex;

 private:
  class Walk;
  void find_loops(RegexSet::Id state, const RegexSet::Row& row);
  bool returns(RegexSet::Id home, RegexSet::Id state, uint8_t utf8);
  std::unordered_map<uint64_t, const StateMask*> masks_;  // by state and node
  std::vector<std::unique_ptr<StateMask>> made_;
  static constexpr size_t kReserve = size_t{128} << 20;
  size_t limit_;
  size_t memory_ = 0;
};

}  // namespace tokloom
