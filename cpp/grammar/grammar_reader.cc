#include "grammar/grammar_reader.h"

#include <nanobind/stl/string.h>

#include <unordered_map>
#include <utility>

#include "grammar/grammar_problem.h"

namespace nb = nanobind;

namespace tokloom {

namespace {

using Kind = Form::Kind;

constexpr uint32_t kMostCount = 1u << 31;
constexpr size_t kMostNodes = size_t{1} << 24;

// The classes of expression.py, by type object.
class Classes {
 public:
  Classes() {
    const nb::module_ module = nb::module_::import_("tokloom.grammar.expression");
    const std::pair<const char*, Kind> names[] = {
        {"Literal", Kind::literal}, {"Bytes", Kind::bytes},   {"Chars", Kind::chars},       {"Concat", Kind::concat},
        {"Either", Kind::either},   {"Repeat", Kind::repeat}, {"Ref", Kind::ref},           {"Both", Kind::both},
        {"Except", Kind::except},   {"Automaton", Kind::automaton}, {"AnyOrder", Kind::any_order},
        {"Special", Kind::special},
    };
    for (const auto& [name, kind] : names) {
      nb::object type = module.attr(name);
      kinds_.emplace(type.ptr(), kind);
      held_.push_back(std::move(type));
    }
  }
  bool find(PyObject* type, Kind& kind) const {
    const auto place = kinds_.find(type);
    if (place == kinds_.end()) return false;
    kind = place->second;
    return true;
  }

 private:
  std::unordered_map<PyObject*, Kind> kinds_;
  std::vector<nb::object> held_;
};

class Reader {
 public:
  explicit Reader(nb::handle grammar) : rules_(grammar.attr("rules")), start_(grammar.attr("start")) {}

  Form read() {
    form_.start = number_of(start_);
    return std::move(form_);
  }

 private:
  struct Open {
    nb::object expression;
    Kind kind;
    Form::Node node;
    std::vector<nb::object> parts;  // expressions inside; of a reference: the rule's, if it is still to be read
    size_t next = 0;
    std::string rule;  // that this is a reference to
  };

  // Reads an expression and all that is in it, children before parents; a rule when it is first met.
  uint32_t number_of(const nb::object& root) {
    std::vector<Open> stack;
    std::vector<std::string> places{"start"};  // names of the rules that are being read
    push(root, stack, places);
    uint32_t last = 0;
    while (!stack.empty()) {
      Open& top = stack.back();
      if (top.next < top.parts.size()) {
        const nb::object part = top.parts[top.next++];
        const auto known = numbers_.find(part.ptr());
        if (known == numbers_.end()) {
          push(part, stack, places);
          continue;
        }
        last = known->second;
      } else {
        if (top.kind == Kind::ref && !top.parts.empty()) places.pop_back();
        last = add(top.node);
        numbers_[top.expression.ptr()] = last;
        held_.push_back(std::move(top.expression));
        stack.pop_back();
        if (stack.empty()) return last;
      }
      Open& outer = stack.back();
      if (outer.kind == Kind::ref) {
        form_.rules[outer.node.least].body = last;
      } else {
        outer.node.children.push_back(last);
      }
    }
    return last;
  }

  uint32_t add(const Form::Node& node) {
    std::string key;
    encode(node, key);
    const auto [place, fresh] = known_.emplace(std::move(key), static_cast<uint32_t>(form_.nodes.size()));
    if (fresh) {
      if (form_.nodes.size() > kMostNodes) throw GrammarProblem("grammar", "it has more than 2^24 expressions");
      form_.nodes.push_back(node);
    }
    return place->second;
  }

  void push(const nb::object& expression, std::vector<Open>& stack, std::vector<std::string>& places) {
    Open open{expression, Kind::literal, {}, {}, 0, {}};
    const std::string where = places.size() == 1 ? places[0] : "rule '" + places.back() + "'";
    if (!classes().find(reinterpret_cast<PyObject*>(Py_TYPE(expression.ptr())), open.kind)) {
      const std::string type = nb::cast<std::string>(nb::borrow(nb::handle(reinterpret_cast<PyObject*>(Py_TYPE(expression.ptr())))).attr("__name__"));
      throw GrammarProblem(where, "a " + type + " is not an expression", "See tokloom.grammar.expression.");
    }
    open.node.kind = open.kind;
    switch (open.kind) {
      case Kind::literal:
        open.node.data = bytes_of(expression.attr("data"), where);
        break;
      case Kind::bytes:
        ranges(expression, 0xFF, open.node.numbers, where);
        break;
      case Kind::chars:
        ranges(expression, 0x10FFFF, open.node.numbers, where);
        break;
      case Kind::concat:
      case Kind::either:
      case Kind::both:
        items(expression.attr("items"), open.parts);
        if (open.kind == Kind::both && open.parts.empty()) {
          throw GrammarProblem(where, "Both has no items", "An intersection needs at least one.");
        }
        break;
      case Kind::repeat:
        open.parts.push_back(expression.attr("item"));
        bounds(expression, open.node.least, open.node.most, where);
        break;
      case Kind::except:
        open.parts.push_back(expression.attr("item"));
        open.parts.push_back(expression.attr("removed"));
        break;
      case Kind::automaton:
        automaton(expression, open.node.numbers, where);
        break;
      case Kind::any_order: {
        std::vector<nb::object> members;
        items(expression.attr("members"), members);
        for (const nb::object& member : members) {
          open.parts.push_back(member.attr("item"));
          uint32_t least = 0;
          uint32_t most = 0;
          bounds(member, least, most, where);
          open.node.numbers.push_back(least);
          open.node.numbers.push_back(most);
        }
        open.parts.push_back(expression.attr("separator"));
        bounds(expression, open.node.least, open.node.most, where);
        break;
      }
      case Kind::special:
        open.node.data = nb::cast<std::string>(expression.attr("token"));
        break;
      case Kind::ref:
        reference(expression, open, places, where);
        break;
    }
    stack.push_back(std::move(open));
  }

  void reference(const nb::object& expression, Open& open, std::vector<std::string>& places, const std::string& where) {
    const nb::object name = expression.attr("name");
    std::string text = nb::cast<std::string>(name);
    const auto [place, fresh] = rule_numbers_.emplace(text, static_cast<uint32_t>(form_.rules.size()));
    open.node.least = place->second;
    if (!fresh) return;
    if (!nb::cast<bool>(rules_.attr("__contains__")(name))) {
      throw GrammarProblem(where, "there is no rule named '" + text + "'", "Define it, or correct the reference.");
    }
    form_.rules.push_back({text, UINT32_MAX});
    open.parts.push_back(rules_[name]);
    places.push_back(std::move(text));
  }

  static std::string bytes_of(const nb::object& value, const std::string& where) {
    if (!nb::isinstance<nb::bytes>(value)) throw GrammarProblem(where, "a Literal's data is not bytes", "Use text() for a string.");
    const auto data = nb::borrow<nb::bytes>(value);
    return {data.c_str(), data.size()};
  }

  static void items(const nb::object& sequence, std::vector<nb::object>& out) {
    for (nb::handle item : sequence) out.push_back(nb::borrow(item));
  }

  static uint32_t count_of(const nb::object& value, const std::string& where) {
    const long long count = PyLong_Check(value.ptr()) ? PyLong_AsLongLong(value.ptr()) : -1;
    if (count == -1 && PyErr_Occurred() != nullptr) PyErr_Clear();
    if (count < 0 || count >= static_cast<long long>(kMostCount)) {
      const std::string shown = nb::cast<std::string>(nb::str(value));
      throw GrammarProblem(where, shown + " is not a valid count", "Counts are integers from 0 to 2^31 - 1.");
    }
    return static_cast<uint32_t>(count);
  }

  static void bounds(const nb::object& from, uint32_t& least, uint32_t& most, const std::string& where) {
    least = count_of(from.attr("minimum"), where);
    const nb::object upper = from.attr("maximum");
    most = upper.is_none() ? Form::kUnbounded : count_of(upper, where);
    if (most < least) {
      throw GrammarProblem(where, "at least " + std::to_string(least) + " but at most " + std::to_string(most) + " can't be");
    }
  }

  static void ranges(const nb::object& expression, uint32_t limit, std::vector<uint32_t>& out, const std::string& where) {
    for (nb::handle range : expression.attr("ranges")) {
      const uint32_t first = count_of(range[0], where);
      const uint32_t last = count_of(range[1], where);
      if (first > last || last > limit || (!out.empty() && first <= out.back())) {
        throw GrammarProblem(where, "ranges are not ascending and disjoint, or beyond " + std::to_string(limit));
      }
      out.push_back(first);
      out.push_back(last);
    }
  }

  static void automaton(const nb::object& expression, std::vector<uint32_t>& out, const std::string& where) {
    const nb::object edges = expression.attr("edges");
    const nb::object accepting = expression.attr("accepting");
    const auto states = static_cast<uint32_t>(nb::len(edges));
    if (states == 0) throw GrammarProblem(where, "an Automaton has no states");
    out.push_back(states);
    uint32_t number = 0;
    for (nb::handle state : edges) {
      out.push_back(static_cast<uint32_t>(nb::len(state)));
      out.push_back(PySequence_Contains(accepting.ptr(), nb::int_(number).ptr()) == 1 ? 1 : 0);
      uint32_t from = 0;
      for (nb::handle edge : state) {
        const uint32_t first = count_of(edge[0], where);
        const uint32_t last = count_of(edge[1], where);
        const uint32_t next = count_of(edge[2], where);
        if (first < from || first > last || last > 0xFF || next >= states) {
          throw GrammarProblem(where, "edges of state " + std::to_string(number) + " of an Automaton are not ascending and"
                               " disjoint, or lead to no state");
        }
        from = last + 1;
        out.insert(out.end(), {first, last, next});
      }
      ++number;
    }
  }

  static const Classes& classes() {
    static const Classes* made = new Classes;  // lives as long as the process: its objects must not die after Python
    return *made;
  }

  nb::object rules_;
  nb::object start_;
  Form form_;
  std::unordered_map<PyObject*, uint32_t> numbers_;  // by object,
  std::vector<nb::object> held_;                     // which must not die meanwhile
  std::unordered_map<std::string, uint32_t> known_;  // by encoding
  std::unordered_map<std::string, uint32_t> rule_numbers_;
};

}  // namespace

Form read_grammar(nb::handle grammar) { return Reader(grammar).read(); }

}  // namespace tokloom
