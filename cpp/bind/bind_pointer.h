// Addresses as Python hands them over: integers.
#pragma once

#include <cstdint>

namespace tokloom {

template <class T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

}  // namespace tokloom
