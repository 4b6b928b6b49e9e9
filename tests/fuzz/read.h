// What the fuzz targets for texts have in common.
#pragma once

#include <cstdlib>
#include <string_view>

#include "core/base/error.h"

namespace peal {

// Reads a text: all that may go wrong is an Error(input) whose place begins with `place`.
template <typename Parse>
void read_or_refuse(std::string_view place, const Parse& parse) {
  try {
    parse();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input || !error.where().starts_with(place)) std::abort();
  }
}

}  // namespace peal
