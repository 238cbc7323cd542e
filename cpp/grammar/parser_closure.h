// What may come next at one place: enters expressions until terminals are reached.
#pragma once

#include <queue>
#include <unordered_map>
#include <utility>
#include <vector>

#include "grammar/parser.h"

namespace tokloom {

class Parser::Closure {
 public:
  explicit Closure(Parser& parser) : parser_(parser) {}

  void clear();
  // The frames of the stack come next.
  void pop(uint32_t stack);
  // The expression comes next, followed by any of the frames. Strings that are not empty only: who adds
  // an expression that may be empty also adds what follows it.
  void add(RuleSet::Id expression, const std::vector<uint32_t>& frames);
  const Configuration* run();

  bool complete = false;

 private:
  // Whether the frame is new among those that follow the expression.
  bool mark(RuleSet::Id expression, uint32_t frame);
  void enter(RuleSet::Id expression, std::vector<uint32_t> frames);
  std::vector<uint32_t> frames_of(uint32_t stack) const;

  Parser& parser_;
  // Expressions yet to be entered, with what follows them. Those that others begin with come later, so
  // that all that leads to an expression is known when it is entered.
  std::unordered_map<RuleSet::Id, std::vector<uint32_t>> waiting_;
  std::priority_queue<std::pair<uint32_t, RuleSet::Id>> order_;  // by height
  struct Mark {
    RuleSet::Id expression;
    uint32_t frame;
    uint32_t time;
  };
  std::vector<Mark> marks_;  // a hash table; entries of another time are free
  size_t marked_ = 0;
  uint32_t round_ = 0;
  std::vector<uint32_t> popped_;  // by stack: the last time it was popped
  uint32_t time_ = 0;
  std::vector<Configuration::Item> items_;
  std::vector<Configuration::Item> specials_;
};

}  // namespace tokloom
