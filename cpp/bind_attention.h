#pragma once

#include <nanobind/nanobind.h>

namespace tokloom {

void bind_attention(nanobind::module_& m);

}  // namespace tokloom
