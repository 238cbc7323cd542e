// Deterministic automata over bytes, and those of sets of characters and of strings.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "grammar/byte_set.h"

namespace tokloom {

struct Automaton {
  struct Edge {
    uint8_t first;
    uint8_t last;
    uint32_t next;
  };
  struct State {
    std::vector<Edge> edges;  // ascending and disjoint
    bool accepting = false;
  };
  std::vector<State> states;  // the first is the start

  // Drops bytes that are not in the alphabet and edges that lead to no accepting state.
  void trim(const ByteSet& alphabet);
  // All of it as bytes: equal automata have equal text.
  std::string text() const;
};

// The UTF-8 of one character out of inclusive ranges of code points, ascending and disjoint.
Automaton character_automaton(const std::vector<std::pair<uint32_t, uint32_t>>& ranges);

// Any one of the strings.
Automaton string_automaton(std::vector<std::string> strings);

}  // namespace tokloom
