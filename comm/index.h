// Ranks and counts of ranks are ints, as in MPI; arrays are indexed by sizes.
#pragma once

#include <cstddef>

namespace peal {

constexpr std::size_t at(int index) {
  return static_cast<std::size_t>(index);
}

}  // namespace peal
