// Members in any order: how often each occurred, what must still come and what may.
#include <algorithm>
#include <utility>

#include "grammar/grammar_problem.h"
#include "grammar/rule_set.h"

namespace tokloom {

RuleSet::Id RuleSet::order(Order order) {
  bool zero = order.least_in_all == 0;
  if (order.most_in_all <= 1) order.separator = kNothing;
  for (size_t i = 0; i < order.items.size(); ++i) {
    zero = zero && order.least[i] == 0;
    order.empty_member = order.empty_member || (nodes_[order.items[i]].nullable && order.most[i] > 0);
  }
  if (order.empty_member && nodes_[order.separator].nullable) {
    throw GrammarProblem("grammar", "an AnyOrder has a member and a separator that may both be empty",
                         "Take the empty string out of one of them.");
  }
  const std::vector<uint32_t> none(order.items.size(), 0);
  orders_.push_back(std::move(order));
  const uint32_t first = counts({static_cast<uint32_t>(orders_.size() - 1), 0, none});
  const Id choose = intern({Kind::choose, choose_nullable(counts_[first]), false, false, first, 0, 0, 0});
  return zero ? either({kEmpty, choose}) : choose;
}

uint32_t RuleSet::counts(Counts made) {
  uint64_t hash = mix(made.order, made.total);
  for (const uint32_t count : made.members) hash = mix(hash, count);
  const uint32_t known = counts_index_.find(hash, [&](uint32_t number) {
    const Counts& other = counts_[number];
    return other.order == made.order && other.total == made.total && other.members == made.members;
  });
  if (known != HashIndex::kNone) return known;
  memory_ += sizeof(Counts) + made.members.size() * sizeof(uint32_t) + 48;
  counts_.push_back(std::move(made));
  const auto number = static_cast<uint32_t>(counts_.size() - 1);
  counts_index_.insert(hash, number);
  return number;
}

// Counts stop where more makes no difference: at the minimum of what has no maximum.
uint32_t RuleSet::counted(uint32_t number, uint32_t member) {
  Counts next = counts_[number];
  const Order& order = orders_[next.order];
  const uint32_t most = order.most[member] == kUnbounded ? order.least[member] : order.most[member];
  const uint32_t total = order.most_in_all == kUnbounded ? order.least_in_all : order.most_in_all;
  next.members[member] = std::min(next.members[member] + 1, most);
  next.total = std::min(next.total + 1, total);
  return counts(std::move(next));
}

RuleSet::Needs RuleSet::needs(const Counts& counts) const {
  const Order& order = orders_[counts.order];
  Needs result{0, 0, 0, 0, true};
  for (size_t i = 0; i < order.items.size(); ++i) {
    const uint64_t need = order.least[i] > counts.members[i] ? order.least[i] - counts.members[i] : 0;
    const uint64_t left = nodes_[order.items[i]].dead ? 0 : left_of(order, counts, i);
    result.possible = result.possible && need <= left;
    result.needed_by_member += need;
    result.left_by_member += left;
  }
  const uint64_t short_of = order.least_in_all > counts.total ? order.least_in_all - counts.total : 0;
  result.needed = std::max(short_of, result.needed_by_member);
  result.available = result.left_by_member;
  if (order.most_in_all != kUnbounded) {
    result.available = std::min<uint64_t>(result.available, order.most_in_all - counts.total);
  } else if (result.available >= kUnbounded) {
    result.available = UINT64_MAX;
  }
  return result;
}

// One or more members, all of them empty.
bool RuleSet::choose_nullable(const Counts& counts) const {
  const Order& order = orders_[counts.order];
  const Needs need = needs(counts);
  uint64_t empties = 0;
  for (size_t i = 0; i < order.items.size(); ++i) {
    if (nodes_[order.items[i]].nullable) {
      empties += left_of(order, counts, i);
    } else if (order.least[i] > counts.members[i]) {
      return false;
    }
  }
  if (order.most_in_all != kUnbounded) empties = std::min<uint64_t>(empties, order.most_in_all - counts.total);
  const uint64_t least = std::max<uint64_t>(need.needed, 1);
  return empties >= least && (least == 1 || nodes_[order.separator].nullable);
}

RuleSet::Id RuleSet::settled(Id id) {
  const Node node = nodes_[id];
  return node.kind == Kind::after ? rest_of(counted(node.a, node.b)) : id;
}

RuleSet::Id RuleSet::rest_of(uint32_t number) {
  const Counts& counts = counts_[number];
  const Order& order = orders_[counts.order];
  const Needs need = needs(counts);
  const bool nullable = need.needed == 0 || (nodes_[order.separator].nullable && choose_nullable(counts));
  return intern({Kind::rest, nullable, false, false, number, 0, 0, 0});
}

RuleSet::Id RuleSet::choose_after(Id rest) {
  const uint32_t number = nodes_[rest].a;
  return intern({Kind::choose, choose_nullable(counts_[number]), false, false, number, 0, 0, 0});
}

}  // namespace tokloom
