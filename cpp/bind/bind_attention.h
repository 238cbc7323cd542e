#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "attention/attention.h"

namespace tokloom {

// Throws ValueError if there is no storage of that name.
Storage storage_of(const std::string& name);

void bind_attention(nanobind::module_& m);

}  // namespace tokloom
