#include "core/device/cuda/library.h"

#include <dlfcn.h>

#include "core/base/error.h"

namespace peal::cuda {

void* open_library(const Device& device, const std::string& name) {
  if (void* library = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return library;
  fail_input(to_string(device), "cannot open ", name, ": ", ::dlerror(),
             "; put the folder that holds it on LD_LIBRARY_PATH");
}

void* find_function(void* library, const std::string& name, const char* function) {
  if (void* found = ::dlsym(library, function)) return found;
  fail_input(name, "has no function ", function, ": ", ::dlerror());
}

}  // namespace peal::cuda
