// The one layout that tensors on CUDA have beside row-major: x (B, C, ...) as (B, ..., C), with the
// channels of a pixel side by side, as cuDNN's engines for half types want it.
#pragma once

#include <memory>

#include "core/kernels/kernels.h"
#include "core/kernels/layout.h"

namespace peal::cuda {

// nullptr where that is row-major: one channel, or one pixel.
const Layout* channels_last(const Shape& shape, DType dtype);

// Copies x (B, C, H, W), row-major or channels-last as is said, to y (B, C', H, W) of any types.
// Channels that x has not become 0, those that y has not are left out.
std::unique_ptr<Reorder> resize_channels(const Shape& from, const Shape& to, bool from_last,
                                         bool to_last);

}  // namespace peal::cuda
