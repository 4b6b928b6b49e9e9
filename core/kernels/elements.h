#pragma once

#include "core/kernels/kernels.h"

namespace peal {

// Elements that x occupies, a layout's padding included: pointwise kernels go over all of them.
inline std::int64_t elements(const Tensor& x) {
  if (x.layout == nullptr) return x.numel();
  return static_cast<std::int64_t>(layout_bytes(x) / size_of(x.dtype));
}

}  // namespace peal
