#include "grammar/grammar_traits.h"

#include <algorithm>

#include "grammar/grammar_problem.h"

namespace tokloom {

namespace {

constexpr uint32_t kBroad = 24;  // so many characters are a wide choice: strings of them are many tokens

ByteSet all_bytes() {
  ByteSet all;
  all.set_range(0, 255);
  return all;
}

uint32_t added(uint32_t a, uint32_t b) { return std::min(kLong, a + b); }

class TraitsFinder {
 public:
  explicit TraitsFinder(const Form& form) : form_(form), traits_(form.nodes.size()) {}

  std::vector<Traits> find() {
    const std::vector<uint8_t> nullable = nullable_nodes();
    for (uint32_t i = 0; i < traits_.size(); ++i) {
      traits_[i].nullable = nullable[i] != 0;
      find_traits(i);
    }
    return std::move(traits_);
  }

 private:
  using Kind = Form::Kind;

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
        return node.kind == Kind::ref && recursive(form_, static_cast<uint32_t>(&node - form_.nodes.data()));
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
        if (recursive(form_, i)) {
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
    throw GrammarProblem(place_in(form_, i), std::string(what) + " holds what is not regular: a recursive rule, AnyOrder or Special",
                         "Intersections and differences take regular expressions only.");
  }

  const Form& form_;
  std::vector<Traits> traits_;
};

}  // namespace

ByteSet more_after(const ByteSet& before_more, const Traits& b) {
  ByteSet both = before_more;
  both &= b.first;
  ByteSet more = b.more;
  if (b.nullable || !both.empty()) {  // or where the first ends and the second begins is not certain
    more |= b.first;
    more |= before_more;
  }
  return more;
}

std::vector<Traits> find_traits(const Form& form) { return TraitsFinder(form).find(); }

std::string place_in(const Form& form, uint32_t node) {
  const Form::Rule* best = nullptr;
  for (const Form::Rule& rule : form.rules) {
    if (rule.body >= node && (best == nullptr || rule.body < best->body)) best = &rule;
  }
  return best == nullptr ? "start" : "rule '" + best->name + "'";
}

}  // namespace tokloom
