#include "grammar/grammar_lower.h"

#include <algorithm>
#include <utility>

#include "grammar/grammar_problem.h"
#include "grammar/grammar_traits.h"

namespace tokloom {

namespace {

constexpr uint32_t kWhole = 64;           // parts of a regular expression that is kept as one terminal
constexpr uint32_t kMostOpen = 4096;      // parts of one that is kept together because nothing closes it
constexpr uint32_t kShort = 16;           // bytes of what a terminal may repeat
constexpr size_t kMostPieces = 4096;      // of a flattened sequence

class Lowering {
 public:
  Lowering(const Form& form, const std::unordered_map<std::string, uint32_t>& specials, RegexSet& regexes,
           RuleSet& rules)
      : form_(form), specials_(specials), regexes_(regexes), rules_(rules), traits_(find_traits(form)),
        wanted_(form.nodes.size(), 0), regex_wanted_(form.nodes.size(), 0), regex_(form.nodes.size(), 0),
        lowered_(form.nodes.size(), 0), rule_of_(form.rules.size(), UINT32_MAX) {}

  RuleSet::Id run() {
    const auto nodes = static_cast<uint32_t>(form_.nodes.size());
    for (uint32_t i = 0; i < nodes; ++i) {
      const Form::Node& node = form_.nodes[i];
      if (node.kind != Form::Kind::ref || !recursive(form_, i) || rule_of_[node.least] != UINT32_MAX) continue;
      const Form::Rule& rule = form_.rules[node.least];
      rule_of_[node.least] = rules_.add_rule(rule.name, traits_[rule.body].nullable);
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

  // A node past references to rules that are not recursive.
  uint32_t resolved(uint32_t i) const {
    while (form_.nodes[i].kind == Kind::ref && !recursive(form_, i)) i = form_.rules[form_.nodes[i].least].body;
    return i;
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
        if (!recursive(form_, i)) wanted_[form_.rules[node.least].body] = 1;
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
        return recursive(form_, i) ? rules_.ref(rule_of_[node.least]) : lowered_[form_.rules[node.least].body];
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
          throw GrammarProblem(place_in(form_, i), "the tokenizer has no special token '" + node.data + "'",
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
