// Regular sets of byte strings, as expressions that know their derivatives.
//
// Every expression is a number; equal expressions have the same number (hash-consing), so that an
// expression is also a state of a deterministic automaton, built as far as it is walked: the state
// after a byte is the derivative, what may follow that byte. Intersection, difference and counted
// repeats are as easy as alternatives, and a number is shared by all grammars of a vocabulary.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "grammar/automaton.h"
#include "grammar/byte_set.h"
#include "grammar/hash_index.h"

namespace tokloom {

class RegexSet {
 public:
  using Id = uint32_t;
  static constexpr Id kNothing = 0;  // no string
  static constexpr Id kEmpty = 1;    // the empty string
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  // Where each byte leads; kNothing if no string goes on so.
  struct Row {
    Id next[256];
    ByteSet live;
    bool narrow;    // few live bytes
    bool nullable;  // the state's own
    // For whoever walks with it (state_mask.h).
    mutable bool loops_known = false;
    mutable uint64_t loops = 0;
    mutable uint64_t loops_as_characters = 0;
    mutable uint32_t loops_slack = 0;
    mutable bool loops_end = false;
  };

  // Strings with other bytes than these are left out of every set: no token can write them.
  // Throws GrammarProblem when it would take more memory than `limit`.
  RegexSet(const ByteSet& alphabet, size_t limit);

  Id bytes(ByteSet set);
  Id literal(std::string_view text);
  Id concat(Id first, Id second);
  Id either(std::vector<Id> items);
  Id both(std::vector<Id> items);
  Id except(Id item, Id removed);
  Id repeat(Id item, uint32_t least, uint32_t most);
  Id automaton(Automaton automaton);

  bool nullable(Id id) const { return nodes_[id].nullable; }
  // Some string is in the set. May have to search; throws GrammarProblem beyond a limit.
  bool alive(Id id, int depth = 0);
  // All of whose edges lead to states that are alive. Valid as long as the set.
  const Row& row(Id id);

  // For comparing masks (state_mask.h). `uncounted` has no upper bounds of repeats, and accepts the same strings
  // up to length `slack(id)`; `relaxed` also lacks what an Except removes, so that it holds more.
  Id uncounted(Id id) { return loosened(id, false); }
  Id relaxed(Id id) { return loosened(id, true); }
  uint32_t slack(Id id) const;
  // Of x{a,b} with or without something after it: the same with x*; `most` is b. Otherwise `id` itself.
  Id unbounded_head(Id id, uint32_t& most);
  // The same with counts above `longest` lowered to it: no difference to a token of that length.
  Id clamped(Id id, uint32_t longest);

  size_t size() const { return nodes_.size(); }
  size_t memory() const { return memory_; }

 private:
  enum class Kind : uint8_t { nothing, empty, bytes, literal, concat, either, both, except, repeat, automaton };
  struct Node {
    Kind kind;
    bool nullable;
    bool searched;  // holds Both or Except, so that it may be empty without looking so
    Id a;           // or number of the byte set, the text, the automaton, the first child
    Id b;           // or the offset, the state, how many children
    uint32_t least;
    uint32_t most;
  };

  Id intern(const Node& node);
  Id intern(Kind kind, const std::vector<Id>& items);
  Id state_of(Id automaton, uint32_t state);
  Id derivative(Id id, uint8_t byte, int depth);
  bool search(Id id);
  void collect_fronts(Id id, int depth);
  void add_front(const ByteSet& set);
  const Row& raw_row(Id id);
  void merge_repeats(std::vector<Id>& items);
  Id loosened(Id id, bool all);
  std::vector<Id> items_of(Id id) const;

  ByteSet alphabet_;
  std::vector<Node> nodes_;
  HashIndex index_;
  std::vector<Id> children_;
  std::vector<ByteSet> sets_;
  std::unordered_map<std::string, uint32_t> texts_index_;
  std::vector<std::string> texts_;
  std::unordered_map<std::string, uint32_t> automata_index_;
  std::vector<Automaton> automata_;

  enum class Life : uint8_t { unknown, alive, dead };
  std::vector<Life> life_;
  std::vector<std::unique_ptr<Row>> raw_;   // rows as derived
  std::vector<const Row*> rows_;            // rows without what is dead
  std::vector<std::unique_ptr<Row>> pruned_;
  std::unordered_map<uint64_t, Id> loosened_;

  uint64_t signs_[256];  // of collect_fronts: equal signs, equal derivatives
  uint64_t fronts_ = 0;
  size_t limit_;
  size_t memory_ = 0;
};

}  // namespace tokloom
