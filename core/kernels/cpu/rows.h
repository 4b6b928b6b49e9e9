// What kernels over rows share.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/base/clones.h"

namespace peal::cpu {

// Several running maxima, so that one comparison need not wait for the last. n >= 1.
PEAL_INLINE float max_of(const float* x, std::int64_t n) {
  float largest = x[0];
  std::int64_t i = 0;
  if (n >= 16) {
    float lanes[16];
    std::memcpy(lanes, x, sizeof lanes);
    for (i = 16; i + 16 <= n; i += 16) {
      for (int j = 0; j < 16; ++j) lanes[j] = x[i + j] > lanes[j] ? x[i + j] : lanes[j];
    }
    for (const float lane : lanes) largest = lane > largest ? lane : largest;
  }
  for (; i < n; ++i) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

}  // namespace peal::cpu
