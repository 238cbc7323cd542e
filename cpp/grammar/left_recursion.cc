// Rewrites rules that begin with themselves so that they do not, with the same language.
//
// For rules A_1 ... A_n that begin with each other, each is
//     A_k = N_k | A_1 R_1k | ... | A_n R_nk
// where N_k begins with none of them. Read as a system of linear equations that is
//     A_j = N_1 S_1j | ... | N_n S_nj      S_ij = (empty if i = j) | R_i1 S_1j | ... | R_in S_nj
// where S_ij is what may follow an A_i to make it an A_j; it is right-recursive. An R that may be empty
// makes an A_i an A_k by itself; the steps of that kind are closed over first, and taken out of R.
#include <algorithm>
#include <map>
#include <unordered_map>

#include "grammar/grammar_problem.h"
#include "grammar/rule_set.h"

namespace tokloom {

class LeftRecursion {
 public:
  explicit LeftRecursion(RuleSet& rules) : rules_(rules) {}

  void remove() {
    const auto rules = static_cast<uint32_t>(rules_.rules());
    std::vector<std::vector<uint32_t>> edges(rules);
    for (uint32_t rule = 0; rule < rules; ++rule) edges[rule] = begins_with(rules_.rules_[rule].body);
    for (const auto& group : components(edges)) {
      const bool itself = std::count(edges[group[0]].begin(), edges[group[0]].end(), group[0]) > 0;
      if (group.size() > 1 || itself) rewrite(group);
    }
  }

 private:
  using Id = RuleSet::Id;
  using Kind = RuleSet::Kind;
  struct Parts {
    std::vector<Id> plain;                      // N
    std::map<uint32_t, std::vector<Id>> after;  // R by rule of the group
  };

  // Rules that an expression may begin with.
  std::vector<uint32_t> begins_with(Id id) {
    std::vector<uint32_t> found;
    std::vector<Id> open{id};
    std::unordered_map<Id, bool> seen{{id, true}};
    std::vector<Id> parts;
    while (!open.empty()) {
      const Id at = open.back();
      open.pop_back();
      if (rules_.nodes_[at].kind == Kind::ref) {
        found.push_back(rules_.nodes_[at].a);
        continue;
      }
      parts.clear();
      rules_.begin_with(at, parts);
      for (const Id part : parts) {
        if (seen.emplace(part, true).second) open.push_back(part);
      }
    }
    std::sort(found.begin(), found.end());
    found.erase(std::unique(found.begin(), found.end()), found.end());
    return found;
  }

  // Strongly connected components (Tarjan's algorithm, with a stack of its own).
  static std::vector<std::vector<uint32_t>> components(const std::vector<std::vector<uint32_t>>& edges) {
    const auto count = static_cast<uint32_t>(edges.size());
    std::vector<uint32_t> order(count, 0), low(count, 0), path;
    std::vector<uint8_t> on_path(count, 0);
    std::vector<std::pair<uint32_t, size_t>> calls;
    std::vector<std::vector<uint32_t>> found;
    uint32_t time = 0;
    for (uint32_t root = 0; root < count; ++root) {
      if (order[root] != 0) continue;
      calls.emplace_back(root, 0);
      while (!calls.empty()) {
        auto& [at, next] = calls.back();
        if (next == 0) {
          order[at] = low[at] = ++time;
          path.push_back(at);
          on_path[at] = 1;
        }
        if (next < edges[at].size()) {
          const uint32_t to = edges[at][next++];
          if (order[to] == 0) {
            calls.emplace_back(to, 0);
          } else if (on_path[to] != 0) {
            low[at] = std::min(low[at], order[to]);
          }
          continue;
        }
        const uint32_t done = at;
        calls.pop_back();
        if (!calls.empty()) low[calls.back().first] = std::min(low[calls.back().first], low[done]);
        if (low[done] != order[done]) continue;
        std::vector<uint32_t> group;
        do {
          group.push_back(path.back());
          on_path[path.back()] = 0;
          path.pop_back();
        } while (group.back() != done);
        found.push_back(std::move(group));
      }
    }
    return found;
  }

  bool in_group(uint32_t rule) const { return place_.count(rule) > 0; }

  bool touches(Id id) {
    const auto known = touches_.find(id);
    if (known != touches_.end()) return known->second;
    const auto begins = begins_with(id);
    const bool touched = std::any_of(begins.begin(), begins.end(), [&](uint32_t rule) { return in_group(rule); });
    touches_.emplace(id, touched);
    return touched;
  }

  void add(Parts& to, const Parts& from, Id rest) {
    for (const Id id : from.plain) to.plain.push_back(rules_.concat(id, rest));
    for (const auto& [rule, ids] : from.after) {
      for (const Id id : ids) to.after[rule].push_back(rules_.concat(id, rest));
    }
  }

  // The strings of an expression that are not empty, split by what they begin with.
  Parts split(Id id, int depth) {
    if (depth > 2000) throw GrammarProblem("grammar", "left-recursive rules are nested too deeply");
    Parts parts;
    if (rules_.nodes_[id].dead) return parts;
    if (!touches(id)) {
      parts.plain.push_back(rules_.solid(id));
      return parts;
    }
    const RuleSet::Node node = rules_.nodes_[id];
    switch (node.kind) {
      case Kind::ref:
        parts.after[node.a].push_back(RuleSet::kEmpty);
        break;
      case Kind::solid:
        return split(node.a, depth + 1);
      case Kind::concat:
        add(parts, split(node.a, depth + 1), node.b);
        if (rules_.nodes_[node.a].nullable) add(parts, split(node.b, depth + 1), RuleSet::kEmpty);
        break;
      case Kind::either:
        for (uint32_t i = 0; i < node.b; ++i) add(parts, split(rules_.children(id)[i], depth + 1), RuleSet::kEmpty);
        break;
      case Kind::repeat:
        add(parts, split(node.a, depth + 1),
            rules_.repeat(node.a, node.least == 0 ? 0 : node.least - 1,
                          node.most == RuleSet::kUnbounded ? node.most : node.most - 1));
        break;
      case Kind::choose: {
        std::vector<std::pair<Id, Id>> choices;
        rules_.each_choice(id, [&](Id item, Id after) { choices.emplace_back(item, after); });
        for (const auto& [item, after] : choices) {
          const Id rest = rules_.settled(after);
          add(parts, split(item, depth + 1), rest);
          if (rules_.nodes_[item].nullable) add(parts, split(rest, depth + 1), RuleSet::kEmpty);
        }
        break;
      }
      case Kind::rest: {
        const Id choose = rules_.choose_after(id);
        const Id separator = rules_.separator(id);
        add(parts, split(separator, depth + 1), choose);
        if (rules_.nodes_[separator].nullable) add(parts, split(choose, depth + 1), RuleSet::kEmpty);
        break;
      }
      case Kind::after:
        return split(rules_.settled(id), depth + 1);
      case Kind::nothing:
      case Kind::empty:
      case Kind::terminal:
      case Kind::special:
        break;
    }
    return parts;
  }

  void rewrite(const std::vector<uint32_t>& group) {
    const size_t size = group.size();
    if (size > 200) throw GrammarProblem("grammar", "more than 200 rules begin with each other");
    place_.clear();
    touches_.clear();
    for (size_t i = 0; i < size; ++i) place_[group[i]] = i;
    std::vector<Id> plain(size);
    std::vector<std::vector<Id>> after(size * size);      // R, from i to k at i * size + k
    std::vector<std::vector<uint8_t>> unit(size, std::vector<uint8_t>(size, 0));
    for (size_t k = 0; k < size; ++k) {
      Parts parts = split(rules_.rules_[group[k]].body, 0);
      plain[k] = rules_.either(std::move(parts.plain));
      for (auto& [rule, ids] : parts.after) after[place_[rule] * size + k] = std::move(ids);
      unit[k][k] = 1;
    }
    for (size_t i = 0; i < size; ++i) {
      for (size_t k = 0; k < size; ++k) {
        for (const Id id : after[i * size + k]) unit[i][k] = unit[i][k] != 0 || rules_.nodes_[id].nullable;
      }
    }
    for (size_t via = 0; via < size; ++via) {
      for (size_t i = 0; i < size; ++i) {
        for (size_t k = 0; k < size; ++k) unit[i][k] = unit[i][k] != 0 || (unit[i][via] != 0 && unit[via][k] != 0);
      }
    }
    std::vector<uint32_t> more(size * size);  // S
    for (size_t i = 0; i < size; ++i) {
      for (size_t j = 0; j < size; ++j) {
        more[i * size + j] = rules_.add_rule("more of " + rules_.rules_[group[j]].name, unit[i][j] != 0);
      }
    }
    for (size_t j = 0; j < size; ++j) {
      for (size_t i = 0; i < size; ++i) {
        std::vector<Id> ways;
        if (unit[i][j] != 0) ways.push_back(RuleSet::kEmpty);
        for (size_t same = 0; same < size; ++same) {
          if (unit[i][same] == 0) continue;
          for (size_t k = 0; k < size; ++k) {
            for (const Id id : after[same * size + k]) {
              ways.push_back(rules_.concat(rules_.solid(id), rules_.ref(more[k * size + j])));
            }
          }
        }
        rules_.set_body(more[i * size + j], rules_.either(std::move(ways)));
      }
      std::vector<Id> ways;
      if (rules_.rules_[group[j]].nullable) ways.push_back(RuleSet::kEmpty);
      for (size_t i = 0; i < size; ++i) ways.push_back(rules_.concat(plain[i], rules_.ref(more[i * size + j])));
      rules_.set_body(group[j], rules_.either(std::move(ways)));
    }
  }

  RuleSet& rules_;
  std::map<uint32_t, size_t> place_;  // of the group's rules
  std::unordered_map<Id, bool> touches_;
};

void RuleSet::remove_left_recursion() { LeftRecursion(*this).remove(); }

}  // namespace tokloom
