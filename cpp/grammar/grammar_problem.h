// What is wrong with a grammar; Python sees it as tokloom.errors.GrammarError.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace tokloom {

struct GrammarProblem : std::runtime_error {
  GrammarProblem(std::string where_, const std::string& problem, std::string hint_ = "")
      : std::runtime_error(problem), where(std::move(where_)), hint(std::move(hint_)) {}
  std::string where;
  std::string hint;
};

}  // namespace tokloom
