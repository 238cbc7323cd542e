// Follows all ways to read an output at once.
//
// A configuration is what may come next: states of terminals that are being read, each with what follows
// it. What follows is a stack; as ways to read part and meet again, stacks share what they have in
// common: a stack is a set of frames, a frame is an expression with the stack beneath it. Stacks,
// frames and configurations are numbered by content, so that a place in the grammar that was seen
// before, with the same counts and the same surroundings, is the same configuration: its next bytes and
// its mask are known. All calls of an expression at one place are joined before it is entered
// (as in Earley's parser), so that ambiguity costs no more than polynomial space.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "grammar/grammar_form.h"
#include "grammar/rule_set.h"
#include "grammar/state_mask.h"

namespace tokloom {

using SpecialTokens = std::unordered_map<std::string, uint32_t>;  // id by text

struct ConfigurationMask {
  std::vector<const StateMask*> wide;  // united,
  std::vector<uint32_t> tokens;        // with these,
  std::vector<uint32_t> words;         // and with this bitmask, if it is not empty

  void write(uint32_t* out, size_t count) const;
};

// Immutable but for what is remembered: other threads may read while one adds to it.
struct Configuration {
  struct Item {
    RegexSet::Id state;
    uint32_t stack;
    bool operator==(const Item& other) const { return state == other.state && stack == other.stack; }
    bool operator<(const Item& other) const {
      return state != other.state ? state < other.state : stack < other.stack;
    }
  };
  std::vector<Item> items;     // ascending by state, which are different
  std::vector<Item> specials;  // `state` is a token
  bool complete = false;       // the output may end here
  ByteSet bytes;               // that may come next
  std::unique_ptr<std::atomic<const Configuration*>[]> next;  // by rank in `bytes`; null: not known yet
  mutable std::atomic<const ConfigurationMask*> mask{nullptr};
  enum class Fate : uint8_t { unknown, finishes, stuck };
  mutable Fate fate = Fate::unknown;  // whether tokens can finish the output

  const std::atomic<const Configuration*>& after(uint8_t byte) const { return next[bytes.rank(byte)]; }
};

class Parser {
 public:
  // Throws GrammarProblem, also if no string can be made.
  Parser(std::shared_ptr<MaskCache> mask_cache, const Form& form, const SpecialTokens& specials, size_t limit);

  const Configuration* start() const { return start_; }
  // What remains possible after the bytes; null if nothing. Any thread may call these.
  const Configuration* step(const Configuration* from, std::string_view bytes);
  const Configuration* step_special(const Configuration* from, uint32_t token);
  const ConfigurationMask& mask(const Configuration* at);
  // Tokens can finish the output from here. Certain if every byte is a token; else the search is bounded, and
  // what it can't tell is taken to be so.
  bool can_finish(const Configuration* at);
  // Bytes that must come next, at most `most`.
  std::string forced(const Configuration* at, size_t most);

  // More is remembered than should be: begin again with a new parser.
  bool full() const { return full_.load(std::memory_order_relaxed); }
  size_t memory() const { return memory_.load(std::memory_order_relaxed) + rules_.memory(); }
  size_t configurations() const { return configurations_.size(); }
  const MaskCache& mask_cache() const { return *mask_cache_; }

 private:
  class Closure;
  friend class Closure;
  friend class MaskBuilder;

  struct Frame {
    RuleSet::Id rest;
    uint32_t below;  // a stack
  };
  struct Stack {
    uint32_t first;  // in frame_lists_
    uint32_t count;
    const Configuration* after;  // once this is what comes next; null: not known yet
  };

  uint32_t frame(RuleSet::Id rest, uint32_t below);
  uint32_t stack(const std::vector<uint32_t>& frames);  // sorted and different
  const Configuration* after(uint32_t stack);
  const Configuration* advance(const Configuration* from, uint8_t byte);
  const Configuration* configuration(std::vector<Configuration::Item> items, std::vector<Configuration::Item> specials,
                                     bool complete);
  void unite(std::vector<Configuration::Item>& items);
  uint32_t unite(uint32_t a, uint32_t b);
  void charge(size_t bytes);
  void each_token(const Configuration* from, const std::function<void(uint32_t, const Configuration*)>& visit);
  bool finishes(const Configuration* from);
  void add_finishing(const Configuration* at, ConfigurationMask& out);

  std::shared_ptr<MaskCache> mask_cache_;
  RegexSet& regexes_;
  RuleSet rules_;
  std::vector<Frame> frames_;
  HashIndex frame_index_;
  std::vector<Stack> stacks_;
  std::vector<uint32_t> frame_lists_;
  HashIndex stack_index_;
  std::vector<std::unique_ptr<Configuration>> configurations_;
  HashIndex configuration_index_;
  std::vector<std::unique_ptr<ConfigurationMask>> masks_;
  std::unique_ptr<Closure> closure_;
  const Configuration* start_ = nullptr;
  size_t limit_;
  std::atomic<size_t> memory_{0};
  std::atomic<bool> full_{false};

 public:
  ~Parser();
};

}  // namespace tokloom
