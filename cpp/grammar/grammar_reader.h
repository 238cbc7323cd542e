// Reads a grammar from Python's objects.
#pragma once

#include <nanobind/nanobind.h>

#include "grammar/grammar_form.h"

namespace tokloom {

// `grammar` is a tokloom.grammar.expression.Grammar. Throws GrammarProblem for what no such grammar may hold.
Form read_grammar(nanobind::handle grammar);

}  // namespace tokloom
