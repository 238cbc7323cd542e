#include "grammar_lower.h"

#include <algorithm>
#include <utility>

#include "grammar_problem.h"

namespace tokloom {

namespace {

constexpr uint32_t kLong = 1u << 30;      // a length without bound
constexpr uint32_t kBroad = 24;           // so many characters are a wide choice: strings of them are many tokens
constexpr uint32_t kWhole = 64;           // parts of a regular expression that is kept as one terminal
constexpr uint32_t kMostOpen = 4096;      // parts of one that is kept together because nothing closes it
constexpr uint32_t kShort = 16;           // bytes of what a terminal may repeat
constexpr size_t kMostPieces = 4096;      // of a flattened sequence

// What decides where a regular expression is cut into terminals. Any cut is correct; these make it fast:
// a wide repeat (the inside of a string) ends a terminal together with the byte that closes it, so that
// its states and their masks are the same wherever such a string occurs.
struct Traits {
  bool nullable = false;
  bool regular = true;
  bool broad = false;  // some byte or character of it is one of many
  bool wide = false;   // repeats a broad one
  bool loops = false;
  ByteSet first;       // bytes that a string of it may begin with
  ByteSet more;        // that may follow a string of it in a longer one; an estimate
  uint32_t length = 0;  // bytes at most
  uint32_t weight = 1;

  bool open() const { return !more.empty(); }
};

ByteSet all_bytes() {
  ByteSet all;
  all.set_range(0, 255);
  return all;
}

// What may follow a string of `a`, and then of `b`, in a longer one.
ByteSet more_after(const ByteSet& a_more, const Traits& b) {
  ByteSet both = a_more;
  both &= b.first;
  ByteSet more = b.more;
  if (b.nullable || !both.empty()) {  // or where the first ends and the second begins is not certain
    more |= b.first;
    more |= a_more;
  }
  return more;
}

uint32_t added(uint32_t a, uint32_t b) { return std::min(kLong, a + b); }

class Lowering {
 public:
  Lowering(const Form& form, const std::unordered_map<std::string, uint32_t>& specials, RegexSet& regexes,
           RuleSet& rules)
      : form_(form), specials_(specials), regexes_(regexes), rules_(rules), traits_(form.nodes.size()),
        wanted_(form.nodes.size(), 0), regex_wanted_(form.nodes.size(), 0), regex_(form.nodes.size(), 0),
        lowered_(form.nodes.size(), 0), rule_of_(form.rules.size(), UINT32_MAX) {}

  RuleSet::Id run() {
    const auto nodes = static_cast<uint32_t>(form_.nodes.size());
    std::vector<uint8_t> nullable = nullable_nodes();
    for (uint32_t i = 0; i < nodes; ++i) {
      traits_[i].nullable = nullable[i] != 0;
      find_traits(i);
    }
    for (uint32_t i = 0; i < nodes; ++i) {
      const Form::Node& node = form_.nodes[i];
      if (node.kind != Form::Kind::ref || !recursive(i) || rule_of_[node.least] != UINT32_MAX) continue;
      const Form::Rule& rule = form_.rules[node.least];
      rule_of_[node.least] = rules_.add_rule(rule.name, nullable[rule.body] != 0);
    }
    want();
    for (uint32_t i = 0; i < nodes; ++i) {
      if (regex_wanted_[i] != 0) regex_[i] = make_regex(i);
      if (wanted_[i] != 0) lowered_[i] = make_rule(i);
    }
    for (size_t rule = 0; rule < form_.rules.size(); ++rule) {
      if (rule_of_[rule] != UINT32_MAX) rules_.set_body(rule_of_[rule], lowered_[form_.rules[rule].body]);
    }
    rules_.settle();
    if (rules_.rules() > 0) {
      rules_.remove_left_recursion();
      rules_.settle();
    }
    const RuleSet::Id start = lowered_[form_.start];
    return rules_.node(start).dead ? RuleSet::kNothing : start;
  }

 private:
  using Kind = Form::Kind;

  // References within a cycle come before the body of their rule, all others after it (grammar_reader.cc).
  bool recursive(uint32_t i) const { return form_.rules[form_.nodes[i].least].body >= i; }

  // A node past references to rules that are not recursive.
  uint32_t resolved(uint32_t i) const {
    while (form_.nodes[i].kind == Kind::ref && !recursive(i)) i = form_.rules[form_.nodes[i].least].body;
    return i;
  }

  std::vector<uint8_t> nullable_nodes() const {
    std::vector<uint8_t> result(form_.nodes.size(), 0);
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t i = 0; i < form_.nodes.size(); ++i) {
        if (result[i] != 0 || !nullable(form_.nodes[i], result)) continue;
        result[i] = 1;
        changed = true;
      }
      // One pass is enough unless a reference comes before its rule's body.
      changed = changed && std::any_of(form_.nodes.begin(), form_.nodes.end(), [&](const Form::Node& node) {
        return node.kind == Kind::ref && recursive(static_cast<uint32_t>(&node - form_.nodes.data()));
      });
    }
    return result;
  }

  bool nullable(const Form::Node& node, const std::vector<uint8_t>& known) const {
    const auto is = [&](uint32_t i) { return known[i] != 0; };
    switch (node.kind) {
      case Kind::literal:
        return node.data.empty();
      case Kind::concat:
      case Kind::both:
        return std::all_of(node.children.begin(), node.children.end(), is);
      case Kind::either:
        return std::any_of(node.children.begin(), node.children.end(), is);
      case Kind::repeat:
        return node.least == 0 || is(node.children[0]);
      case Kind::ref:
        return is(form_.rules[node.least].body);
      case Kind::except:
        return is(node.children[0]) && !is(node.children[1]);
      case Kind::automaton:
        return node.numbers[2] != 0;
      case Kind::any_order: {
        bool zero = node.least == 0;
        uint64_t needed = node.least;
        uint64_t needed_by_member = 0;
        uint64_t empties = 0;
        bool all = true;
        for (size_t m = 0; m + 1 < node.children.size(); ++m) {
          zero = zero && node.numbers[2 * m] == 0;
          needed_by_member += node.numbers[2 * m];
          if (is(node.children[m])) empties += node.numbers[2 * m + 1];
          else all = all && node.numbers[2 * m] == 0;
        }
        needed = std::max<uint64_t>({needed, needed_by_member, 1});
        empties = std::min<uint64_t>(empties, node.most);
        return zero || (all && empties >= needed && (needed == 1 || is(node.children.back())));
      }
      case Kind::bytes:
      case Kind::chars:
      case Kind::special:
        return false;
    }
    return false;
  }

  void find_traits(uint32_t i) {
    const Form::Node& node = form_.nodes[i];
    Traits& t = traits_[i];
    switch (node.kind) {
      case Kind::literal:
        t.length = static_cast<uint32_t>(std::min<size_t>(kLong, node.data.size()));
        if (!node.data.empty()) t.first.set(static_cast<uint8_t>(node.data[0]));
        break;
      case Kind::bytes:
      case Kind::chars: {
        uint64_t members = 0;
        for (size_t r = 0; r < node.numbers.size(); r += 2) {
          members += node.numbers[r + 1] - node.numbers[r] + 1;
          const uint32_t most = node.kind == Kind::bytes ? 0xFF : 0x7F;
          if (node.numbers[r] <= most) t.first.set_range(node.numbers[r], std::min(node.numbers[r + 1], most));
          if (node.numbers[r + 1] > most) t.first.set_range(0xC2, 0xF4);
        }
        t.broad = members > kBroad;
        t.length = node.kind == Kind::bytes ? 1 : 4;
        break;
      }
      case Kind::concat: {
        bool begun = false;  // by something that is not empty
        for (const uint32_t child : node.children) {
          const Traits& c = traits_[child];
          join(t, c);
          t.length = added(t.length, c.length);
          t.more = more_after(t.more, c);
          if (!begun) t.first |= c.first;
          begun = begun || !c.nullable;
        }
        break;
      }
      case Kind::either:
        for (const uint32_t child : node.children) {
          const Traits& c = traits_[child];
          join(t, c);
          t.length = std::max(t.length, c.length);
          t.first |= c.first;
          t.more |= c.more;
        }
        if (t.nullable) t.more |= t.first;
        break;
      case Kind::repeat: {
        const Traits& c = traits_[node.children[0]];
        join(t, c);
        t.length = c.length == 0 ? 0
                   : node.most == Form::kUnbounded
                       ? kLong
                       : static_cast<uint32_t>(std::min<uint64_t>(kLong, uint64_t{c.length} * node.most));
        t.loops = c.loops || node.most > 8;
        t.wide = c.wide || (c.broad && node.most > 4);
        t.first = c.first;
        t.more = node.most > 1 ? more_after(c.more, c) : c.more;
        // A fixed number of wide items ends by itself, but after its last any byte may come: better with what closes it.
        if (node.least != node.most || t.wide) t.more |= c.first;
        break;
      }
      case Kind::ref:
        if (recursive(i)) {
          t.regular = false;
        } else {
          t = traits_[form_.rules[node.least].body];
        }
        break;
      case Kind::both:
        t.broad = t.wide = true;
        t.first = t.more = all_bytes();
        t.length = kLong;
        for (const uint32_t child : node.children) {
          const Traits& c = traits_[child];
          t.regular = t.regular && c.regular;
          t.broad = t.broad && c.broad;
          t.wide = t.wide && c.wide;
          t.first &= c.first;
          t.more &= c.more;
          t.length = std::min(t.length, c.length);
          t.weight = added(t.weight, c.weight);
        }
        t.loops = t.length > 64;
        check_regular(i, "Both");
        break;
      case Kind::except: {
        const Traits& c = traits_[node.children[0]];
        const Traits& removed = traits_[node.children[1]];
        const bool nullable = t.nullable;
        t = c;
        t.nullable = nullable;
        t.regular = c.regular && removed.regular;
        t.weight = added(c.weight, removed.weight);
        check_regular(i, "Except");
        break;
      }
      case Kind::automaton:
        automaton_traits(node, t);
        break;
      case Kind::any_order:
      case Kind::special:
        t.regular = false;
        break;
    }
  }

  static void join(Traits& t, const Traits& c) {
    t.regular = t.regular && c.regular;
    t.broad = t.broad || c.broad;
    t.wide = t.wide || c.wide;
    t.loops = t.loops || c.loops;
    t.weight = added(t.weight, c.weight);
  }

  void automaton_traits(const Form::Node& node, Traits& t) const {
    std::vector<std::vector<uint32_t>> next(node.numbers[0]);
    size_t at = 1;
    for (uint32_t s = 0; s < node.numbers[0]; ++s) {
      const uint32_t edges = node.numbers[at];
      const bool accepting = node.numbers[at + 1] != 0;
      uint32_t bytes = 0;
      at += 2;
      for (uint32_t e = 0; e < edges; ++e, at += 3) {
        bytes += node.numbers[at + 1] - node.numbers[at] + 1;
        if (s == 0) t.first.set_range(node.numbers[at], node.numbers[at + 1]);
        if (accepting) t.more.set_range(node.numbers[at], node.numbers[at + 1]);
        next[s].push_back(node.numbers[at + 2]);
      }
      t.broad = t.broad || bytes > kBroad;
    }
    t.length = longest_path(next);
    t.loops = t.length == kLong;
    t.wide = t.broad && t.loops;
  }

  // Edges at most from the first state; kLong if there is a cycle, or too much to look at.
  static uint32_t longest_path(const std::vector<std::vector<uint32_t>>& next) {
    if (next.size() > 64) return kLong;
    std::vector<uint32_t> length(next.size(), 0);
    for (size_t round = 0; round <= next.size(); ++round) {
      bool changed = false;
      for (size_t s = 0; s < next.size(); ++s) {
        for (const uint32_t to : next[s]) {
          if (length[to] + 1 <= length[s]) continue;
          length[s] = length[to] + 1;
          changed = true;
        }
      }
      if (!changed) return length[0];
    }
    return kLong;
  }

  void check_regular(uint32_t i, const char* what) const {
    if (traits_[i].regular) return;
    throw GrammarProblem(where(i), std::string(what) + " holds what is not regular: a recursive rule, AnyOrder or Special",
                         "Intersections and differences take regular expressions only.");
  }

  std::string where(uint32_t i) const {
    const Form::Rule* best = nullptr;
    for (const Form::Rule& rule : form_.rules) {
      if (rule.body >= i && (best == nullptr || rule.body < best->body)) best = &rule;
    }
    return best == nullptr ? "start" : "rule '" + best->name + "'";
  }

  // Becomes one terminal.
  bool whole(uint32_t i) const {
    const Traits& t = traits_[i];
    if (!t.regular) return false;
    switch (form_.nodes[i].kind) {
      case Kind::literal:
      case Kind::bytes:
      case Kind::chars:
      case Kind::both:
      case Kind::except:
      case Kind::automaton:
        return true;
      case Kind::repeat: {
        const Traits& item = traits_[form_.nodes[i].children[0]];
        return (item.length <= kShort && item.weight <= kWhole) || (!t.wide && t.weight <= kWhole);
      }
      case Kind::either:
        return (!t.wide && t.weight <= kWhole) || all_literals(form_.nodes[i]);
      case Kind::ref:
        return whole(resolved(i));
      default:
        return !t.wide && t.weight <= kWhole;
    }
  }

  bool all_literals(const Form::Node& node) const {
    return std::all_of(node.children.begin(), node.children.end(),
                       [&](uint32_t child) { return form_.nodes[child].kind == Kind::literal; });
  }

  struct Piece {
    uint32_t node;
    bool in_terminal;
  };

  // The end of a terminal in the making.
  struct End {
    bool open = false;  // a wide repeat is in it that nothing has closed,
    ByteSet more;       // and that may go on with these

    void add(const Traits& t) {
      more = more_after(more, t);
      open = (open || t.wide) && !more.empty();
      if (!open) more = {};
    }
  };

  // The items of a sequence, nested sequences opened up, with what is to be part of terminals.
  std::vector<Piece> pieces(uint32_t i) const {
    std::vector<uint32_t> flat;
    std::vector<uint32_t> open{i};
    while (!open.empty()) {
      const uint32_t at = open.back();
      open.pop_back();
      const Form::Node& node = form_.nodes[at];
      if (at == i || (node.kind == Kind::concat && !whole(at) && flat.size() + node.children.size() < kMostPieces)) {
        for (size_t c = node.children.size(); c-- > 0;) open.push_back(resolved(node.children[c]));
      } else {
        flat.push_back(at);
      }
    }
    std::vector<Piece> result;
    End end;
    for (const uint32_t at : flat) {
      const Traits& t = traits_[at];
      const bool follows = end.open && t.regular && t.weight <= kMostOpen;
      const bool leads = t.regular && t.wide && t.open() && t.weight <= kMostOpen;
      result.push_back({at, whole(at) || follows || leads});
      if (result.back().in_terminal) {
        end.add(t);
      } else {
        end = {};
      }
    }
    return result;
  }

  // Marks, from the top, what is needed as a rule and what as a regular expression.
  void want() {
    wanted_[form_.start] = 1;
    for (size_t rule = 0; rule < form_.rules.size(); ++rule) {
      if (rule_of_[rule] != UINT32_MAX) wanted_[form_.rules[rule].body] = 1;
    }
    for (auto i = static_cast<uint32_t>(form_.nodes.size()); i-- > 0;) {
      const Form::Node& node = form_.nodes[i];
      if (regex_wanted_[i] != 0) {
        for (const uint32_t child : node.children) regex_wanted_[child] = 1;
        if (node.kind == Kind::ref) regex_wanted_[form_.rules[node.least].body] = 1;
      }
      if (wanted_[i] == 0) continue;
      if (whole(i)) {
        regex_wanted_[i] = 1;
        for (const uint32_t child : node.children) regex_wanted_[child] = 1;
        if (node.kind == Kind::ref) regex_wanted_[form_.rules[node.least].body] = 1;
      } else if (node.kind == Kind::ref) {
        if (!recursive(i)) wanted_[form_.rules[node.least].body] = 1;
      } else if (node.kind == Kind::concat) {
        for (const Piece& piece : pieces(i)) (piece.in_terminal ? regex_wanted_ : wanted_)[piece.node] = 1;
      } else if (node.kind == Kind::either) {
        for (const uint32_t child : node.children) (whole(child) && !traits_[child].wide ? regex_wanted_ : wanted_)[child] = 1;
      } else {
        for (const uint32_t child : node.children) wanted_[child] = 1;
      }
    }
  }

  RegexSet::Id make_regex(uint32_t i) {
    const Form::Node& node = form_.nodes[i];
    std::vector<RegexSet::Id> items;
    for (const uint32_t child : node.children) items.push_back(regex_[child]);
    switch (node.kind) {
      case Kind::literal:
        return regexes_.literal(node.data);
      case Kind::bytes: {
        ByteSet set;
        for (size_t r = 0; r < node.numbers.size(); r += 2) set.set_range(node.numbers[r], node.numbers[r + 1]);
        return regexes_.bytes(set);
      }
      case Kind::chars:
        return characters(node.numbers);
      case Kind::concat: {
        RegexSet::Id made = RegexSet::kEmpty;
        for (size_t c = items.size(); c-- > 0;) made = regexes_.concat(items[c], made);
        return made;
      }
      case Kind::either:
        return alternatives(node, std::move(items));
      case Kind::repeat:
        return regexes_.repeat(items[0], node.least, node.most);
      case Kind::ref:
        return regex_[form_.rules[node.least].body];
      case Kind::both:
        return regexes_.both(std::move(items));
      case Kind::except:
        return regexes_.except(items[0], items[1]);
      case Kind::automaton:
        return regexes_.automaton(automaton(node.numbers));
      default:
        return RegexSet::kNothing;
    }
  }

  RegexSet::Id characters(const std::vector<uint32_t>& numbers) {
    if (numbers.empty()) return RegexSet::kNothing;
    if (numbers.back() < 0x80) {
      ByteSet set;
      for (size_t r = 0; r < numbers.size(); r += 2) set.set_range(numbers[r], numbers[r + 1]);
      return regexes_.bytes(set);
    }
    std::vector<std::pair<uint32_t, uint32_t>> ranges;
    for (size_t r = 0; r < numbers.size(); r += 2) ranges.emplace_back(numbers[r], numbers[r + 1]);
    return regexes_.automaton(character_automaton(ranges));
  }

  // Strings among the alternatives become one automaton: a list of a thousand is as fast as one.
  RegexSet::Id alternatives(const Form::Node& node, std::vector<RegexSet::Id> items) {
    std::vector<std::string> strings;
    std::vector<RegexSet::Id> others;
    for (size_t c = 0; c < items.size(); ++c) {
      const Form::Node& child = form_.nodes[resolved(node.children[c])];
      if (child.kind == Kind::literal) {
        strings.push_back(child.data);
      } else {
        others.push_back(items[c]);
      }
    }
    if (strings.size() < 2) return regexes_.either(std::move(items));
    others.push_back(regexes_.automaton(string_automaton(std::move(strings))));
    return regexes_.either(std::move(others));
  }

  static Automaton automaton(const std::vector<uint32_t>& numbers) {
    Automaton made;
    size_t at = 1;
    for (uint32_t s = 0; s < numbers[0]; ++s) {
      Automaton::State state;
      const uint32_t edges = numbers[at];
      state.accepting = numbers[at + 1] != 0;
      at += 2;
      for (uint32_t e = 0; e < edges; ++e, at += 3) {
        state.edges.push_back(
            {static_cast<uint8_t>(numbers[at]), static_cast<uint8_t>(numbers[at + 1]), numbers[at + 2]});
      }
      made.states.push_back(std::move(state));
    }
    return made;
  }

  RuleSet::Id make_rule(uint32_t i) {
    const Form::Node& node = form_.nodes[i];
    if (whole(i)) return rules_.terminal(regex_[i] != 0 || regex_wanted_[i] != 0 ? regex_[i] : make_regex(i));
    switch (node.kind) {
      case Kind::concat:
        return sequence(i);
      case Kind::either: {
        std::vector<RuleSet::Id> items;
        std::vector<RegexSet::Id> narrow;
        for (const uint32_t child : node.children) {
          if (whole(child) && !traits_[child].wide) {
            narrow.push_back(regex_[child]);
          } else {
            items.push_back(lowered_[child]);
          }
        }
        if (!narrow.empty()) items.push_back(rules_.terminal(regexes_.either(std::move(narrow))));
        return rules_.either(std::move(items));
      }
      case Kind::repeat:
        return rules_.repeat(lowered_[node.children[0]], node.least, node.most);
      case Kind::ref:
        return recursive(i) ? rules_.ref(rule_of_[node.least]) : lowered_[form_.rules[node.least].body];
      case Kind::any_order: {
        RuleSet::Order order;
        for (size_t m = 0; m + 1 < node.children.size(); ++m) {
          order.items.push_back(lowered_[node.children[m]]);
          order.least.push_back(node.numbers[2 * m]);
          order.most.push_back(node.numbers[2 * m + 1]);
        }
        order.separator = lowered_[node.children.back()];
        order.least_in_all = node.least;
        order.most_in_all = node.most;
        return rules_.order(std::move(order));
      }
      case Kind::special: {
        const auto token = specials_.find(node.data);
        if (token == specials_.end()) {
          throw GrammarProblem(where(i), "the tokenizer has no special token '" + node.data + "'",
                               "Special names one of its special tokens by its text.");
        }
        return rules_.special(token->second);
      }
      default:
        return RuleSet::kNothing;
    }
  }

  RuleSet::Id sequence(uint32_t i) {
    std::vector<RuleSet::Id> parts;
    std::vector<RegexSet::Id> terminal;
    const auto flush = [&] {
      RegexSet::Id made = RegexSet::kEmpty;
      for (size_t c = terminal.size(); c-- > 0;) made = regexes_.concat(terminal[c], made);
      parts.push_back(rules_.terminal(made));
      terminal.clear();
    };
    End end;
    for (const Piece& piece : pieces(i)) {
      const Form::Node& node = form_.nodes[piece.node];
      const Traits& t = traits_[piece.node];
      if (!piece.in_terminal) {
        flush();
        end = {};
        parts.push_back(lowered_[piece.node]);
        continue;
      }
      const bool was_open = end.open;
      end.add(t);
      if (was_open && !end.open && node.kind == Kind::literal && !node.data.empty()) {
        // The byte that closes the repeat is enough: what comes after it is another terminal.
        terminal.push_back(regexes_.literal(std::string_view(node.data).substr(0, 1)));
        flush();
        if (node.data.size() > 1) terminal.push_back(regexes_.literal(std::string_view(node.data).substr(1)));
        continue;
      }
      terminal.push_back(regex_[piece.node]);
      if (!end.open && (was_open || t.wide || t.loops)) flush();
    }
    flush();
    RuleSet::Id made = RuleSet::kEmpty;
    for (size_t c = parts.size(); c-- > 0;) made = rules_.concat(parts[c], made);
    return made;
  }

  const Form& form_;
  const std::unordered_map<std::string, uint32_t>& specials_;
  RegexSet& regexes_;
  RuleSet& rules_;
  std::vector<Traits> traits_;
  std::vector<uint8_t> wanted_;        // by node
  std::vector<uint8_t> regex_wanted_;  // by node
  std::vector<RegexSet::Id> regex_;
  std::vector<RuleSet::Id> lowered_;
  std::vector<uint32_t> rule_of_;      // in `rules`, by rule of the form
};

}  // namespace

RuleSet::Id lower(const Form& form, const std::unordered_map<std::string, uint32_t>& specials, RegexSet& regexes,
                  RuleSet& rules) {
  return Lowering(form, specials, regexes, rules).run();
}

}  // namespace tokloom
