// A grammar as Python gave it, flat: what tokloom/grammar/expression.py describes, one node an expression.
//
// Nodes are in an order in which children come first, equal nodes are one. The bytes that it is
// encoded as are therefore the same for equal grammars; they are the key of caches and the format of files.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tokloom {

struct Form {
  static constexpr uint32_t kUnbounded = UINT32_MAX;

  enum class Kind : uint8_t {
    literal, bytes, chars, concat, either, repeat, ref, both, except, automaton, any_order, special,
  };

  struct Node {
    Kind kind = Kind::literal;
    uint32_t least = 0;               // repeat, any_order; the rule's number of a ref
    uint32_t most = 0;                // repeat, any_order
    std::vector<uint32_t> children;   // of any_order: the members, then the separator
    std::vector<uint32_t> numbers;    // bytes, chars: first, last, ...; any_order: least, most, ... of the members;
                                      // automaton: states, then for each: edges, accepting, (first, last, next) ...
    std::string data;                 // literal, special
  };

  struct Rule {
    std::string name;
    uint32_t body;
  };

  std::vector<Node> nodes;
  std::vector<Rule> rules;
  uint32_t start = 0;

  std::string encode() const;
  // Throws GrammarProblem for bytes that `encode` did not write.
  static Form decode(std::string_view bytes);
};

// Appends a node's encoding; `decode` reads a sequence of them.
void encode(const Form::Node& node, std::string& out);

}  // namespace tokloom
