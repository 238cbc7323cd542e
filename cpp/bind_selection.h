#pragma once

#include <nanobind/nanobind.h>

namespace tokloom {

void bind_selection(nanobind::module_& m);

}  // namespace tokloom
