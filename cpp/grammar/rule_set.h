// Context-free expressions: regular terminals put together by sequence, choice, repetition and rules.
//
// As with regular expressions, equal ones have the same number, and what is left of one after a part of it
// is again an expression: `item{2,5}` after one item is `item{1,4}`. Counts are kept, never written out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grammar/hash_index.h"
#include "grammar/regex.h"

namespace tokloom {

class RuleSet {
 public:
  using Id = uint32_t;
  static constexpr Id kNothing = 0;
  static constexpr Id kEmpty = 1;
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  enum class Kind : uint8_t {
    nothing, empty,
    terminal,  // a: regular expression
    special,   // a: token
    concat,    // a, then b
    either,    // b children from a on
    repeat,    // a, least to most times
    ref,       // rule a
    solid,     // a without the empty string
    choose,    // of an order with the counts a: members, at least one
    rest,      // the same after a member: nothing more, or a separator and more members
    after,     // `rest` once member b is counted; so written until it is reached
  };
  struct Node {
    Kind kind;
    bool nullable;
    bool dead;   // no string
    bool blank;  // no string but, perhaps, the empty one
    uint32_t a;
    uint32_t b;
    uint32_t least;
    uint32_t most;
  };
  struct Rule {
    std::string name;
    Id body;
    bool nullable;
    bool dead;
    bool blank;
  };
  struct Order {  // members in any order
    std::vector<Id> items;
    std::vector<uint32_t> least;
    std::vector<uint32_t> most;
    Id separator;
    uint32_t least_in_all;
    uint32_t most_in_all;
    bool empty_member = false;
  };

  explicit RuleSet(RegexSet& regexes);

  Id terminal(RegexSet::Id regex);
  Id special(uint32_t token);
  Id concat(Id first, Id second);
  Id either(std::vector<Id> items);
  Id repeat(Id item, uint32_t least, uint32_t most);
  Id ref(uint32_t rule);
  Id solid(Id item);
  Id order(Order order);
  // An `after` as the `rest` that it stands for; others as they are.
  Id settled(Id id);

  // Calls visit(member's item, what is left after it) for each member that may come next.
  template <class Visit>
  void each_choice(Id choose, Visit&& visit);
  Id separator(Id rest) const { return orders_[counts_[nodes_[rest].a].order].separator; }
  Id choose_after(Id rest);  // what follows the separator

  const Node& node(Id id) const { return nodes_[id]; }
  const Id* children(Id id) const { return children_.data() + nodes_[id].a; }
  size_t size() const { return nodes_.size(); }
  size_t memory() const { return memory_; }

  // Rules come first: numbers in [0, rules). Bodies are set once all are known.
  uint32_t add_rule(std::string name, bool nullable);
  void set_body(uint32_t rule, Id body) { rules_[rule].body = body; }
  const Rule& rule(uint32_t number) const { return rules_[number]; }
  size_t rules() const { return rules_.size(); }

  // Finds out which expressions are dead or blank. Until then all that depends on rules looks alive.
  void settle();
  // Rewrites rules that begin with themselves (left_recursion.cc); then settle() again.
  void remove_left_recursion();
  // Levels of expressions that may begin at the same place, 0 for a terminal: what an expression begins with is lower.
  // Only without left recursion.
  uint32_t height(Id id);

 private:
  friend class LeftRecursion;

  struct Counts {  // of an order's members so far, as far as they still matter
    uint32_t order;
    uint32_t total;
    std::vector<uint32_t> members;
  };
  struct Needs {
    uint64_t needed;     // members at least to come
    uint64_t available;  // at most
    uint64_t needed_by_member;
    uint64_t left_by_member;
    bool possible;
  };

  Id intern(Node node);
  void judge(Node& node) const;
  uint32_t counts(Counts counts);
  uint32_t counted(uint32_t counts, uint32_t member);
  Id rest_of(uint32_t counts);
  Needs needs(const Counts& counts) const;
  static uint64_t left_of(const Order& order, const Counts& counts, size_t member) {
    return order.most[member] == kUnbounded ? kUnbounded : order.most[member] - counts.members[member];
  }
  bool choose_nullable(const Counts& counts) const;
  void begin_with(Id id, std::vector<Id>& out);

  RegexSet& regexes_;
  std::vector<Node> nodes_;
  std::vector<Id> children_;
  HashIndex index_;
  std::vector<Rule> rules_;
  std::vector<Order> orders_;
  std::vector<Counts> counts_;
  HashIndex counts_index_;
  std::vector<uint32_t> heights_;
  size_t memory_ = 0;
};

template <class Visit>
void RuleSet::each_choice(Id choose, Visit&& visit) {
  const uint32_t number = nodes_[choose].a;
  const Needs all = needs(counts_[number]);
  const size_t members = counts_[number].members.size();
  for (size_t i = 0; i < members; ++i) {
    const Counts& counts = counts_[number];  // again each time: visits may make more of them
    const Order& order = orders_[counts.order];
    if (order.most_in_all != kUnbounded && order.most_in_all <= counts.total) return;
    const Id item = order.items[i];
    const uint64_t left = left_of(order, counts, i);
    if (left == 0 || nodes_[item].dead) continue;
    // What must and can come after this member.
    const bool needed = counts.members[i] < order.least[i];
    const uint64_t short_of = order.least_in_all > counts.total + 1 ? order.least_in_all - counts.total - 1 : 0;
    const uint64_t still = std::max(short_of, all.needed_by_member - (needed ? 1 : 0));
    uint64_t can = all.left_by_member >= kUnbounded ? kUnbounded : all.left_by_member - 1;
    if (order.most_in_all != kUnbounded) can = std::min<uint64_t>(can, order.most_in_all - counts.total - 1);
    if (still > can || (still > 0 && nodes_[order.separator].dead)) continue;
    visit(item, intern({Kind::after, false, false, false, number, static_cast<uint32_t>(i), 0, 0}));
  }
}

}  // namespace tokloom
