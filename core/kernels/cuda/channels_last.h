// The one layout that tensors on CUDA have beside row-major: x (B, C, ...) as (B, ..., C), with the
// channels of a pixel side by side, as cuDNN's engines for half types want it.
#pragma once

#include "core/kernels/kernels.h"
#include "core/kernels/layout.h"

namespace peal::cuda {

// nullptr where that is row-major: one channel, or one pixel.
const Layout* channels_last(const Shape& shape, DType dtype);

}  // namespace peal::cuda
