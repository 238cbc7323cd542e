#include "grammar/rule_set.h"

#include <algorithm>
#include <utility>

#include "grammar/grammar_problem.h"

namespace tokloom {

namespace {

constexpr size_t kMostNodes = size_t{1} << 23;

}  // namespace

RuleSet::RuleSet(RegexSet& regexes) : regexes_(regexes) {
  intern({Kind::nothing, false, true, true, 0, 0, 0, 0});
  intern({Kind::empty, true, false, true, 0, 0, 0, 0});
}

// Fills in `dead` and `blank` from the parts.
void RuleSet::judge(Node& node) const {
  const auto part = [this](Id id) -> const Node& { return nodes_[id]; };
  switch (node.kind) {
    case Kind::nothing:
    case Kind::empty:
    case Kind::special:
    case Kind::after:
    case Kind::terminal:
      break;
    case Kind::concat:
      node.dead = part(node.a).dead || part(node.b).dead;
      node.blank = node.dead || (part(node.a).blank && part(node.b).blank);
      break;
    case Kind::either:
      node.dead = node.blank = true;
      for (uint32_t i = 0; i < node.b; ++i) {
        node.dead = node.dead && part(children_[node.a + i]).dead;
        node.blank = node.blank && part(children_[node.a + i]).blank;
      }
      break;
    case Kind::repeat:
      node.dead = node.least > 0 && part(node.a).dead;
      node.blank = part(node.a).blank;
      break;
    case Kind::ref:
      node.dead = rules_[node.a].dead;
      node.blank = rules_[node.a].blank;
      break;
    case Kind::solid:
      node.dead = node.blank = part(node.a).blank;
      break;
    case Kind::choose: {
      const Counts& counts = counts_[node.a];
      const Needs need = needs(counts);
      const uint64_t least = std::max<uint64_t>(need.needed, 1);
      const bool alone = part(orders_[counts.order].separator).dead;
      node.dead = !need.possible || least > need.available || (least > 1 && alone);
      node.blank = node.dead;
      break;
    }
    case Kind::rest: {
      const Counts& counts = counts_[node.a];
      const Needs need = needs(counts);
      const bool alone = part(orders_[counts.order].separator).dead;
      node.dead = !need.possible || need.needed > need.available || (need.needed > 0 && alone);
      node.blank = node.dead;
      break;
    }
  }
}

RuleSet::Id RuleSet::intern(Node node) {
  uint64_t hash = mix(static_cast<uint64_t>(node.kind), uint64_t{node.a} << 32 | node.b);
  hash = mix(hash, uint64_t{node.least} << 32 | node.most);
  const Id known = index_.find(hash, [&](Id id) {
    const Node& other = nodes_[id];
    return other.kind == node.kind && other.a == node.a && other.b == node.b && other.least == node.least &&
           other.most == node.most;
  });
  if (known != HashIndex::kNone) return known;
  if (nodes_.size() > kMostNodes) {
    throw GrammarProblem("grammar", "it takes more than 2^23 expressions", "Simplify left-recursive rules and counts.");
  }
  judge(node);
  const auto id = static_cast<Id>(nodes_.size());
  nodes_.push_back(node);
  index_.insert(hash, id);
  memory_ += sizeof(Node) + 48;
  return id;
}

RuleSet::Id RuleSet::terminal(RegexSet::Id regex) {
  if (regex == RegexSet::kEmpty) return kEmpty;
  if (!regexes_.alive(regex)) return kNothing;
  if (regexes_.nullable(regex) && regexes_.row(regex).live.empty()) return kEmpty;
  return intern({Kind::terminal, regexes_.nullable(regex), false, false, regex, 0, 0, 0});
}

RuleSet::Id RuleSet::special(uint32_t token) { return intern({Kind::special, false, false, false, token, 0, 0, 0}); }

RuleSet::Id RuleSet::concat(Id first, Id second) {
  if (first == kNothing || second == kNothing) return kNothing;
  if (first == kEmpty) return second;
  if (second == kEmpty) return first;
  std::vector<Id> heads;
  while (nodes_[first].kind == Kind::concat) {
    heads.push_back(nodes_[first].a);
    first = nodes_[first].b;
  }
  heads.push_back(first);
  for (size_t i = heads.size(); i-- > 0;) {
    const bool nullable = nodes_[heads[i]].nullable && nodes_[second].nullable;
    second = intern({Kind::concat, nullable, false, false, heads[i], second, 0, 0});
  }
  return second;
}

RuleSet::Id RuleSet::either(std::vector<Id> items) {
  std::vector<Id> flat;
  for (const Id item : items) {
    if (nodes_[item].kind == Kind::either) {
      flat.insert(flat.end(), children(item), children(item) + nodes_[item].b);
    } else if (item != kNothing) {
      flat.push_back(item);
    }
  }
  std::sort(flat.begin(), flat.end());
  flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
  if (flat.empty()) return kNothing;
  if (flat.size() == 1) return flat[0];
  uint64_t hash = mix(static_cast<uint64_t>(Kind::either), flat.size());
  for (const Id item : flat) hash = mix(hash, item);
  const Id known = index_.find(hash, [&](Id id) {
    return nodes_[id].kind == Kind::either && nodes_[id].b == flat.size() &&
           std::equal(flat.begin(), flat.end(), children(id));
  });
  if (known != HashIndex::kNone) return known;
  const bool nullable = std::any_of(flat.begin(), flat.end(), [&](Id item) { return nodes_[item].nullable; });
  Node node{Kind::either, nullable, false, false, static_cast<uint32_t>(children_.size()),
            static_cast<uint32_t>(flat.size()), 0, 0};
  children_.insert(children_.end(), flat.begin(), flat.end());
  judge(node);
  const auto id = static_cast<Id>(nodes_.size());
  nodes_.push_back(node);
  index_.insert(hash, id);
  memory_ += sizeof(Node) + 48 + flat.size() * sizeof(Id);
  return id;
}

RuleSet::Id RuleSet::repeat(Id item, uint32_t least, uint32_t most) {
  if (most == 0 || item == kEmpty) return kEmpty;
  if (item == kNothing) return least == 0 ? kEmpty : kNothing;
  if (least == 1 && most == 1) return item;
  if (nodes_[item].nullable) least = 0;
  return intern({Kind::repeat, least == 0, false, false, item, 0, least, most});
}

RuleSet::Id RuleSet::ref(uint32_t rule) {
  return intern({Kind::ref, rules_[rule].nullable, false, false, rule, 0, 0, 0});
}

RuleSet::Id RuleSet::solid(Id item) {
  const Node& node = nodes_[item];
  if (item == kEmpty || item == kNothing) return kNothing;
  if (!node.nullable) return item;
  return intern({Kind::solid, false, false, false, item, 0, 0, 0});
}

uint32_t RuleSet::add_rule(std::string name, bool nullable) {
  rules_.push_back({std::move(name), kNothing, nullable, false, false});
  return static_cast<uint32_t>(rules_.size() - 1);
}

void RuleSet::settle() {
  for (Rule& rule : rules_) rule.dead = rule.blank = true;
  for (bool changed = true; changed;) {
    changed = false;
    for (Node& node : nodes_) {
      const bool dead = node.dead;
      const bool blank = node.blank;
      judge(node);
      changed = changed || dead != node.dead || blank != node.blank;
    }
    for (size_t i = rules_.size(); i-- > 0;) {
      Rule& rule = rules_[i];
      const Node& body = nodes_[rule.body];
      changed = changed || rule.dead != body.dead || rule.blank != body.blank;
      rule.dead = body.dead;
      rule.blank = body.blank;
    }
  }
}

// What a string of this expression may begin with, without following rules' names.
void RuleSet::begin_with(Id id, std::vector<Id>& out) {
  const Node node = nodes_[id];
  switch (node.kind) {
    case Kind::nothing:
    case Kind::empty:
    case Kind::terminal:
    case Kind::special:
      break;
    case Kind::concat:
      out.push_back(node.a);
      if (nodes_[node.a].nullable) out.push_back(node.b);
      break;
    case Kind::either:
      out.insert(out.end(), children(id), children(id) + node.b);
      break;
    case Kind::repeat:
    case Kind::solid:
      out.push_back(node.a);
      break;
    case Kind::ref:
      out.push_back(rules_[node.a].body);
      break;
    case Kind::choose: {
      const Order& order = orders_[counts_[node.a].order];
      out.insert(out.end(), order.items.begin(), order.items.end());
      // Where members may be empty the separator may not (see `order`), so that this ends.
      if (order.empty_member) out.push_back(rest_of(node.a));
      break;
    }
    case Kind::rest: {
      const Order& order = orders_[counts_[node.a].order];
      out.push_back(order.separator);
      if (nodes_[order.separator].nullable) out.push_back(choose_after(id));
      break;
    }
    case Kind::after:
      out.push_back(settled(id));
      break;
  }
}

uint32_t RuleSet::height(Id id) {
  constexpr uint32_t kUnknown = UINT32_MAX;
  if (id < heights_.size() && heights_[id] != kUnknown) return heights_[id];
  struct Open {
    Id id;
    std::vector<Id> parts;
    size_t next;
    uint32_t height;
  };
  std::vector<Open> stack;
  const auto open = [&](Id at) {
    Open entry{at, {}, 0, 0};
    begin_with(at, entry.parts);
    stack.push_back(std::move(entry));
  };
  open(id);
  uint32_t result = 0;
  while (!stack.empty()) {
    Open& top = stack.back();
    if (top.next < top.parts.size()) {
      const Id part = top.parts[top.next];
      if (part < heights_.size() && heights_[part] != kUnknown) {
        top.height = std::max(top.height, heights_[part] + 1);
        ++top.next;
      } else {
        if (stack.size() > 1000000) throw GrammarProblem("grammar", "rules are nested too deeply");
        open(part);
      }
      continue;
    }
    if (heights_.size() <= top.id) heights_.resize(std::max<size_t>(top.id + 1, nodes_.size()), kUnknown);
    result = heights_[top.id] = top.height;
    stack.pop_back();
  }
  return result;
}

}  // namespace tokloom
