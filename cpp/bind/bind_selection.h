#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "attention/selection.h"

namespace tokloom {

Reduce reduce_of(const std::string& name);  // of the names that Python has

void bind_selection(nanobind::module_& m);

}  // namespace tokloom
