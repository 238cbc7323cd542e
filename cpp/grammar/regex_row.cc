// Derivatives of regular expressions, and which states some string leads out of.
#include <algorithm>

#include "grammar/grammar_problem.h"
#include "grammar/regex.h"

namespace tokloom {

namespace {

constexpr int kDeepest = 3000;         // of nested expressions: recursion must not exhaust the stack
constexpr size_t kMostSearched = size_t{48} << 20;  // bytes made to find out whether a set is empty

void check_depth(int depth) {
  if (depth > kDeepest) {
    throw GrammarProblem("grammar", "a regular part is nested more than " + std::to_string(kDeepest) + " levels deep",
                         "Name its parts as rules, or simplify it.");
  }
}

}  // namespace

void RegexSet::add_front(const ByteSet& set) {
  const uint64_t sign = mix(0x5851F42D4C957F2Dull, ++fronts_) | 1;
  set.each([&](uint8_t byte) { signs_[byte] += sign; });
}

// Signs the bytes so that bytes of one sign have equal derivatives, and those of sign 0 lead nowhere.
void RegexSet::collect_fronts(Id id, int depth) {
  check_depth(depth);
  for (;;) {
    const Node& node = nodes_[id];
    switch (node.kind) {
      case Kind::nothing:
      case Kind::empty:
        return;
      case Kind::bytes:
        add_front(sets_[node.a]);
        return;
      case Kind::literal: {
        ByteSet set;
        set.set(static_cast<uint8_t>(texts_[node.a][node.b]));
        add_front(set);
        return;
      }
      case Kind::automaton: {
        const auto& edges = automata_[node.a].states[node.b].edges;
        for (const Automaton::Edge& edge : edges) {
          ByteSet set;
          set.set_range(edge.first, edge.last);
          add_front(set);
        }
        return;
      }
      case Kind::concat: {
        collect_fronts(node.a, depth + 1);
        if (!nodes_[node.a].nullable) return;
        id = node.b;
        break;
      }
      case Kind::either:
      case Kind::both:
        for (Id i = 0; i < node.b; ++i) collect_fronts(children_[node.a + i], depth + 1);
        return;
      case Kind::except:
        collect_fronts(node.a, depth + 1);
        id = node.b;
        break;
      case Kind::repeat:
        id = node.a;
        break;
    }
  }
}

RegexSet::Id RegexSet::derivative(Id id, uint8_t byte, int depth) {
  check_depth(depth);
  const Node node = nodes_[id];  // a copy: the vector grows below
  switch (node.kind) {
    case Kind::nothing:
    case Kind::empty:
      return kNothing;
    case Kind::bytes:
      return sets_[node.a].test(byte) ? kEmpty : kNothing;
    case Kind::literal: {
      const std::string& text = texts_[node.a];
      if (static_cast<uint8_t>(text[node.b]) != byte) return kNothing;
      if (node.b + 1 == text.size()) return kEmpty;
      return intern({Kind::literal, false, false, node.a, node.b + 1, 0, 0});
    }
    case Kind::automaton: {
      const auto& edges = automata_[node.a].states[node.b].edges;
      const auto edge = std::lower_bound(edges.begin(), edges.end(), byte,
                                         [](const Automaton::Edge& e, uint8_t b) { return e.last < b; });
      return edge == edges.end() || edge->first > byte ? kNothing : state_of(node.a, edge->next);
    }
    case Kind::concat: {
      std::vector<Id> parts;
      Id at = id;
      for (; nodes_[at].kind == Kind::concat; at = nodes_[at].b) {
        const Id head = nodes_[at].a;
        const Id tail = nodes_[at].b;
        parts.push_back(concat(derivative(head, byte, depth + 1), tail));
        if (!nodes_[head].nullable) return parts.size() == 1 ? parts[0] : either(std::move(parts));
      }
      parts.push_back(derivative(at, byte, depth + 1));
      return either(std::move(parts));
    }
    case Kind::either:
    case Kind::both: {
      std::vector<Id> items = items_of(id);
      for (Id& item : items) {
        item = derivative(item, byte, depth + 1);
        if (item == kNothing && node.kind == Kind::both) return kNothing;
      }
      return node.kind == Kind::either ? either(std::move(items)) : both(std::move(items));
    }
    case Kind::except: {
      const Id item = derivative(node.a, byte, depth + 1);
      return item == kNothing ? kNothing : except(item, derivative(node.b, byte, depth + 1));
    }
    case Kind::repeat: {
      const uint32_t least = node.least == 0 ? 0 : node.least - 1;
      const uint32_t most = node.most == kUnbounded ? kUnbounded : node.most - 1;
      return concat(derivative(node.a, byte, depth + 1), repeat(node.a, least, most));
    }
  }
  return kNothing;
}

const RegexSet::Row& RegexSet::raw_row(Id id) {
  if (raw_[id]) return *raw_[id];
  if (memory_ > limit_) {
    throw GrammarProblem("grammar", "a regular part has too many states", "Simplify intersections and counted repeats.");
  }
  auto made = std::make_unique<Row>();
  std::fill(std::begin(made->next), std::end(made->next), kNothing);
  std::fill(std::begin(signs_), std::end(signs_), 0);
  fronts_ = 0;
  collect_fronts(id, 0);
  std::vector<std::pair<uint64_t, Id>> known;  // derivative by sign
  uint64_t signs[256];
  std::copy(std::begin(signs_), std::end(signs_), std::begin(signs));
  for (unsigned byte = 0; byte < 256; ++byte) {
    const uint64_t sign = signs[byte];
    if (sign == 0) continue;
    const auto place = std::find_if(known.begin(), known.end(), [&](const auto& pair) { return pair.first == sign; });
    Id next;
    if (place != known.end()) {
      next = place->second;
    } else {
      next = derivative(id, static_cast<uint8_t>(byte), 0);
      known.emplace_back(sign, next);
    }
    made->next[byte] = next;
    if (next != kNothing) made->live.set(byte);
  }
  made->narrow = made->live.count() <= 4;
  made->nullable = nodes_[id].nullable;
  memory_ += sizeof(Row);
  raw_[id] = std::move(made);
  return *raw_[id];
}

bool RegexSet::alive(Id id, int depth) {
  if (life_[id] != Life::unknown) return life_[id] == Life::alive;
  check_depth(depth);
  const Node node = nodes_[id];
  bool result;
  if (node.kind == Kind::concat) {
    result = alive(node.a, depth + 1) && alive(node.b, depth + 1);
  } else if (node.kind == Kind::either) {
    const std::vector<Id> items = items_of(id);
    result = std::any_of(items.begin(), items.end(), [&](Id item) { return alive(item, depth + 1); });
  } else if (node.kind == Kind::repeat) {
    result = alive(node.a, depth + 1);
  } else {
    return search(id);
  }
  life_[id] = result ? Life::alive : Life::dead;
  return result;
}

// For intersections and differences: looks for a string.
bool RegexSet::search(Id id) {
  std::vector<std::pair<Id, Id>> found{{id, id}};  // state, and where it was reached from
  std::unordered_map<Id, Id> from{{id, id}};
  const size_t before = memory_;
  for (size_t at = 0; at < found.size(); ++at) {
    const Id state = found[at].first;
    const Row& row = raw_row(state);
    Id last = kNothing;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const Id next = row.next[byte];
      if (next == kNothing || next == last) continue;
      last = next;
      if (life_[next] == Life::alive) {
        life_[state] = Life::alive;
        for (Id back = state; back != from[back];) {
          back = from[back];
          life_[back] = Life::alive;
        }
        return true;
      }
      if (life_[next] == Life::unknown && from.emplace(next, state).second) found.emplace_back(next, state);
    }
    if (memory_ - before > kMostSearched) {
      throw GrammarProblem("grammar", "an intersection or difference is too large to tell whether it is empty",
                           "Lower its counts, or drop one side.");
    }
  }
  for (const auto& entry : found) life_[entry.first] = Life::dead;
  return false;
}

const RegexSet::Row& RegexSet::row(Id id) {
  if (rows_[id] != nullptr) return *rows_[id];
  const Row& raw = raw_row(id);
  const Row* result = &raw;
  if (nodes_[id].searched) {
    std::unique_ptr<Row> pruned;
    Id last = kNothing;
    bool last_alive = true;
    for (unsigned byte = 0; byte < 256; ++byte) {
      const Id next = raw.next[byte];
      if (next == kNothing) continue;
      if (next != last) {
        last = next;
        last_alive = alive(next);
      }
      if (last_alive) continue;
      if (!pruned) pruned = std::make_unique<Row>(raw);
      pruned->next[byte] = kNothing;
      pruned->live.word[byte >> 6] &= ~(uint64_t{1} << (byte & 63));
    }
    if (pruned) {
      pruned->narrow = pruned->live.count() <= 4;
      result = pruned.get();
      memory_ += sizeof(Row);
      pruned_.push_back(std::move(pruned));
    }
  }
  rows_[id] = result;
  return *result;
}

}  // namespace tokloom
