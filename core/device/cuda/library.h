// NVIDIA's libraries, opened when a kernel first asks for one, so that one program runs where they
// are not installed.
#pragma once

#include <string>

#include "core/device/device.h"

namespace peal::cuda {

// Stays open as long as the program. Throws Error(input) that says what the loader missed.
void* open_library(const Device& device, const std::string& name);

// Throws Error(input) when the library has no such function.
void* find_function(void* library, const std::string& name, const char* function);

template <typename Function>
void find_function(void* library, const std::string& name, const char* function, Function& found) {
  found = reinterpret_cast<Function>(find_function(library, name, function));
}

}  // namespace peal::cuda
