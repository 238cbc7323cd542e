// What is known of the parts of a grammar before they become rules and terminals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "grammar/byte_set.h"
#include "grammar/grammar_form.h"

namespace tokloom {

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

constexpr uint32_t kLong = 1u << 30;  // a length without bound

// What may follow a string of something, of which that much is known, and then of `b`, in a longer one.
ByteSet more_after(const ByteSet& before_more, const Traits& b);

// By node. Throws GrammarProblem if an intersection or difference holds what is not regular.
std::vector<Traits> find_traits(const Form& form);

// Whether a reference lies on a cycle: then it comes before the body of its rule, else after it (grammar_reader.cc).
inline bool recursive(const Form& form, uint32_t ref) { return form.rules[form.nodes[ref].least].body >= ref; }

// The rule that a node is in, for messages.
std::string place_in(const Form& form, uint32_t node);

}  // namespace tokloom
