// Makes rules and terminals of a grammar's form.
#pragma once

#include <string>
#include <unordered_map>

#include "grammar/grammar_form.h"
#include "grammar/rule_set.h"

namespace tokloom {

// The expression of the grammar's start, without left recursion, in `rules`; kNothing if no string can be made.
// Special tokens are found by their text. Throws GrammarProblem.
RuleSet::Id lower(const Form& form, const std::unordered_map<std::string, uint32_t>& specials, RegexSet& regexes,
                  RuleSet& rules);

}  // namespace tokloom
