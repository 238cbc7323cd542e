#pragma once

#include <nanobind/nanobind.h>

namespace tokloom {

void bind_grammar(nanobind::module_& m);

}  // namespace tokloom
