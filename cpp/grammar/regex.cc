#include "grammar/regex.h"

#include <algorithm>
#include <utility>

#include "grammar/grammar_problem.h"

namespace tokloom {

RegexSet::RegexSet(const ByteSet& alphabet, size_t limit) : alphabet_(alphabet), limit_(limit) {
  intern({Kind::nothing, false, false, 0, 0, 0, 0});
  intern({Kind::empty, true, false, 0, 0, 0, 0});
}

RegexSet::Id RegexSet::intern(const Node& node) {
  uint64_t hash = mix(static_cast<uint64_t>(node.kind), uint64_t{node.a} << 32 | node.b);
  hash = mix(hash, uint64_t{node.least} << 32 | node.most);
  const Id known = index_.find(hash, [&](Id id) {
    const Node& other = nodes_[id];
    return other.kind == node.kind && other.a == node.a && other.b == node.b && other.least == node.least &&
           other.most == node.most;
  });
  if (known != HashIndex::kNone) return known;
  const auto id = static_cast<Id>(nodes_.size());
  nodes_.push_back(node);
  life_.push_back(id == kNothing ? Life::dead : node.searched && !node.nullable ? Life::unknown : Life::alive);
  raw_.emplace_back();
  rows_.push_back(nullptr);
  index_.insert(hash, id);
  memory_ += sizeof(Node) + 64;
  return id;
}

// Alternatives and intersections: children are a sorted set.
RegexSet::Id RegexSet::intern(Kind kind, const std::vector<Id>& items) {
  uint64_t hash = mix(static_cast<uint64_t>(kind), items.size());
  bool nullable = kind == Kind::both;
  bool searched = kind == Kind::both;
  for (const Id item : items) {
    hash = mix(hash, item);
    nullable = kind == Kind::both ? nullable && nodes_[item].nullable : nullable || nodes_[item].nullable;
    searched = searched || nodes_[item].searched;
  }
  const Id known = index_.find(hash, [&](Id id) {
    const Node& other = nodes_[id];
    return other.kind == kind && other.b == items.size() &&
           std::equal(items.begin(), items.end(), children_.begin() + other.a);
  });
  if (known != HashIndex::kNone) return known;
  const auto id = static_cast<Id>(nodes_.size());
  nodes_.push_back({kind, nullable, searched, static_cast<Id>(children_.size()), static_cast<Id>(items.size()), 0, 0});
  children_.insert(children_.end(), items.begin(), items.end());
  life_.push_back(searched && !nullable ? Life::unknown : Life::alive);
  raw_.emplace_back();
  rows_.push_back(nullptr);
  index_.insert(hash, id);
  memory_ += sizeof(Node) + 64 + items.size() * sizeof(Id);
  return id;
}

std::vector<RegexSet::Id> RegexSet::items_of(Id id) const {
  const Node& node = nodes_[id];
  return {children_.begin() + node.a, children_.begin() + node.a + node.b};
}

RegexSet::Id RegexSet::bytes(ByteSet set) {
  set &= alphabet_;
  if (set.empty()) return kNothing;
  uint64_t hash = 17;
  for (const uint64_t word : set.word) hash = mix(hash, word);
  const Id known = index_.find(hash, [&](Id id) { return nodes_[id].kind == Kind::bytes && sets_[nodes_[id].a] == set; });
  if (known != HashIndex::kNone) return known;
  const auto id = static_cast<Id>(nodes_.size());
  nodes_.push_back({Kind::bytes, false, false, static_cast<Id>(sets_.size()), 0, 0, 0});
  sets_.push_back(set);
  life_.push_back(Life::alive);
  raw_.emplace_back();
  rows_.push_back(nullptr);
  index_.insert(hash, id);
  memory_ += sizeof(Node) + 64 + sizeof(ByteSet);
  return id;
}

RegexSet::Id RegexSet::literal(std::string_view text) {
  if (text.empty()) return kEmpty;
  for (const char c : text) {
    if (!alphabet_.test(static_cast<uint8_t>(c))) return kNothing;
  }
  const auto [place, fresh] = texts_index_.emplace(text, static_cast<uint32_t>(texts_.size()));
  if (fresh) {
    texts_.emplace_back(text);
    memory_ += 2 * text.size() + 64;
  }
  return intern({Kind::literal, false, false, place->second, 0, 0, 0});
}

RegexSet::Id RegexSet::concat(Id first, Id second) {
  if (first == kNothing || second == kNothing) return kNothing;
  if (first == kEmpty) return second;
  if (second == kEmpty) return first;
  std::vector<Id> heads;  // (ab)c is a(bc)
  while (nodes_[first].kind == Kind::concat) {
    heads.push_back(nodes_[first].a);
    first = nodes_[first].b;
  }
  heads.push_back(first);
  for (size_t i = heads.size(); i-- > 0;) {
    const Node& head = nodes_[heads[i]];
    const Node& tail = nodes_[second];
    second = intern({Kind::concat, head.nullable && tail.nullable, head.searched || tail.searched, heads[i], second, 0, 0});
  }
  return second;
}

// x{a,b} | x{c,d} is one repeat if the bounds meet; the same in front of an equal rest. Without this a
// counted repeat of something ambiguous would carry a set of counts.
void RegexSet::merge_repeats(std::vector<Id>& items) {
  struct Counted {
    Id item, rest;
    uint32_t least, most;
    bool operator<(const Counted& other) const {
      return std::tie(item, rest, least, most) < std::tie(other.item, other.rest, other.least, other.most);
    }
  };
  std::vector<Counted> counted;
  std::vector<Id> others;
  for (const Id id : items) {
    const bool chain = nodes_[id].kind == Kind::concat;
    const Node& head = nodes_[chain ? nodes_[id].a : id];
    if (head.kind == Kind::repeat) {
      counted.push_back({head.a, chain ? nodes_[id].b : kEmpty, head.least, head.most});
    } else {
      others.push_back(id);
    }
  }
  if (counted.size() < 2) return;
  std::sort(counted.begin(), counted.end());
  for (size_t i = 0; i < counted.size();) {
    Counted merged = counted[i++];
    while (i < counted.size() && counted[i].item == merged.item && counted[i].rest == merged.rest &&
           (merged.most == kUnbounded || counted[i].least <= merged.most + 1)) {
      merged.most = std::max(merged.most, counted[i++].most);
    }
    others.push_back(concat(repeat(merged.item, merged.least, merged.most), merged.rest));
  }
  items = std::move(others);
}

RegexSet::Id RegexSet::either(std::vector<Id> items) {
  std::vector<Id> flat;
  for (const Id item : items) {
    if (nodes_[item].kind == Kind::either) {
      const auto inner = items_of(item);
      flat.insert(flat.end(), inner.begin(), inner.end());
    } else if (item != kNothing) {
      flat.push_back(item);
    }
  }
  std::sort(flat.begin(), flat.end());
  flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
  if (flat.size() > 1) {
    ByteSet set;
    size_t sets = 0;
    for (const Id item : flat) {
      if (nodes_[item].kind == Kind::bytes) {
        set |= sets_[nodes_[item].a];
        ++sets;
      }
    }
    if (sets > 1) {
      flat.erase(std::remove_if(flat.begin(), flat.end(), [&](Id item) { return nodes_[item].kind == Kind::bytes; }),
                 flat.end());
      flat.push_back(bytes(set));
    }
    merge_repeats(flat);
    const auto others_nullable = std::count_if(flat.begin(), flat.end(), [&](Id item) { return nodes_[item].nullable; });
    if (others_nullable > 1) flat.erase(std::remove(flat.begin(), flat.end(), kEmpty), flat.end());
    std::sort(flat.begin(), flat.end());
    flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
  }
  if (flat.empty()) return kNothing;
  return flat.size() == 1 ? flat[0] : intern(Kind::either, flat);
}

RegexSet::Id RegexSet::both(std::vector<Id> items) {
  std::vector<Id> flat;
  for (const Id item : items) {
    if (item == kNothing) return kNothing;
    if (nodes_[item].kind == Kind::both) {
      const auto inner = items_of(item);
      flat.insert(flat.end(), inner.begin(), inner.end());
    } else {
      flat.push_back(item);
    }
  }
  std::sort(flat.begin(), flat.end());
  flat.erase(std::unique(flat.begin(), flat.end()), flat.end());
  if (flat.size() == 1) return flat[0];
  for (const Id item : flat) {
    if (item != kEmpty) continue;
    const bool all = std::all_of(flat.begin(), flat.end(), [&](Id other) { return nodes_[other].nullable; });
    return all ? kEmpty : kNothing;
  }
  if (std::all_of(flat.begin(), flat.end(), [&](Id item) { return nodes_[item].kind == Kind::bytes; })) {
    ByteSet set = sets_[nodes_[flat[0]].a];
    for (const Id item : flat) set &= sets_[nodes_[item].a];
    return bytes(set);
  }
  return intern(Kind::both, flat);
}

RegexSet::Id RegexSet::except(Id item, Id removed) {
  if (item == kNothing || item == removed) return kNothing;
  if (removed == kNothing) return item;
  if (item == kEmpty) return nodes_[removed].nullable ? kNothing : kEmpty;
  if (removed == kEmpty && !nodes_[item].nullable) return item;
  return intern({Kind::except, nodes_[item].nullable && !nodes_[removed].nullable, true, item, removed, 0, 0});
}

RegexSet::Id RegexSet::repeat(Id item, uint32_t least, uint32_t most) {
  if (most == 0 || item == kEmpty) return kEmpty;
  if (item == kNothing) return least == 0 ? kEmpty : kNothing;
  if (least == 1 && most == 1) return item;
  const Node& node = nodes_[item];
  if (node.nullable) least = 0;
  if (node.kind == Kind::repeat && node.least == 0 && node.most == kUnbounded) return item;
  // A count may reach zero by way of an item that turns out empty, so emptiness is searched in the item.
  return intern({Kind::repeat, least == 0, node.searched, item, 0, least, most});
}

RegexSet::Id RegexSet::automaton(Automaton made) {
  made.trim(alphabet_);
  const std::string key = made.text();
  const auto [place, fresh] = automata_index_.emplace(key, static_cast<uint32_t>(automata_.size()));
  if (fresh) {
    memory_ += 3 * key.size() + made.states.size() * 32 + 64;
    automata_.push_back(std::move(made));
  }
  return state_of(place->second, 0);
}

RegexSet::Id RegexSet::state_of(Id automaton, uint32_t number) {
  const Automaton::State& state = automata_[automaton].states[number];
  if (state.edges.empty()) return state.accepting ? kEmpty : kNothing;
  return intern({Kind::automaton, state.accepting, false, automaton, number, 0, 0});
}

RegexSet::Id RegexSet::loosened(Id id, bool all) {
  const Node node = nodes_[id];
  if (node.kind != Kind::repeat && node.kind != Kind::concat && node.kind != Kind::except) return id;
  if (const auto known = loosened_.find(uint64_t{id} << 1 | (all ? 1 : 0)); known != loosened_.end()) return known->second;
  Id made = id;
  if (node.kind == Kind::repeat && node.most != kUnbounded && node.most > 1) {
    made = repeat(node.a, node.least, kUnbounded);
  } else if (node.kind == Kind::except && all) {
    made = loosened(node.a, all);
  } else if (node.kind == Kind::concat) {
    std::vector<Id> heads;
    Id tail = id;
    for (; nodes_[tail].kind == Kind::concat; tail = nodes_[tail].b) heads.push_back(nodes_[tail].a);
    made = loosened(tail, all);
    for (size_t i = heads.size(); i-- > 0;) made = concat(loosened(heads[i], all), made);
  }
  loosened_.emplace(uint64_t{id} << 1 | (all ? 1 : 0), made);
  memory_ += 48;
  return made;
}

uint32_t RegexSet::slack(Id id) const {
  uint32_t least = kUnbounded;
  const auto look = [&](const Node& node) {
    if (node.kind == Kind::repeat && node.most > 1) least = std::min(least, node.most);
  };
  for (; nodes_[id].kind == Kind::concat; id = nodes_[id].b) look(nodes_[nodes_[id].a]);
  look(nodes_[id]);
  return least;
}

RegexSet::Id RegexSet::unbounded_head(Id id, uint32_t& most) {
  most = kUnbounded;
  const Node node = nodes_[id];
  const Node head = node.kind == Kind::concat ? nodes_[node.a] : node;
  if (head.kind != Kind::repeat || nodes_[head.a].nullable) return id;
  most = head.most;
  const Id made = repeat(head.a, 0, kUnbounded);
  return node.kind == Kind::concat ? concat(made, node.b) : made;
}

RegexSet::Id RegexSet::clamped(Id id, uint32_t longest) {
  std::vector<Id> heads;
  bool changed = false;
  const auto lower = [&](Id at) {
    const Node node = nodes_[at];
    if (node.kind != Kind::repeat) return at;
    const uint32_t most = node.most > longest ? kUnbounded : node.most;
    const uint32_t least = std::min(node.least, longest);
    if (most == node.most && least == node.least) return at;
    changed = true;
    return repeat(node.a, least, most);
  };
  for (; nodes_[id].kind == Kind::concat; id = nodes_[id].b) heads.push_back(lower(nodes_[id].a));
  Id made = lower(id);
  if (!changed && heads.empty()) return id;
  for (size_t i = heads.size(); i-- > 0;) made = concat(heads[i], made);
  return made;
}

}  // namespace tokloom
