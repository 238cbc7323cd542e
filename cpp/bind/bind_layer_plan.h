#pragma once

#include <nanobind/nanobind.h>

namespace tokloom {

void bind_layer_plan(nanobind::module_& m);

}  // namespace tokloom
