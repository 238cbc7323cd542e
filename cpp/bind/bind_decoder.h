#pragma once

#include <nanobind/nanobind.h>

namespace tokloom {

void bind_decoder(nanobind::module_& m);

}  // namespace tokloom
