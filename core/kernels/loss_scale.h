// The rule of a loss scale, for the CPU and for CUDA.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/base/clones.h"

namespace peal {

constexpr float kLargestLossScale = 16777216.0f;  // 2^24

struct LossScaling {
  float scale, good, used;
};

// As Kernels::adapt_scale says.
PEAL_ANYWHERE void adapt_loss_scale(double norm, std::int64_t every, float& open, float& go,
                                    LossScaling& scaling) {
  go = open;
  if (open == 0) return;
  scaling.used = scaling.scale;
  if (norm - norm == 0) {  // finite
    scaling.good += 1;
    if (scaling.good < static_cast<float>(every)) return;
    if (scaling.scale < kLargestLossScale) scaling.scale *= 2;
  } else {
    go = 0;
    if (scaling.scale <= 1) open = 0;
    scaling.scale /= 2;
  }
  scaling.good = 0;
}

}  // namespace peal
