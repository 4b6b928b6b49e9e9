// A convolution of few channels with stride 2, such as a residual network's first, as one with
// stride 1 of which each pixel has the channels of a square of 2 x 2: tensor cores read channels in
// eights, of which 3 leave most empty, and the kernel has a quarter as many places. The sums are
// the same.
//   y[i, j] = sum over a, b of x[2i + a - p, 2j + b - p] w[a, b],   a = 2k + r, b = 2l + s
//           = sum over k, l of x'[i + k, j + l] w'[k, l],   (r, s, channel) side by side
#pragma once

#include <memory>

#include "core/kernels/kernels.h"

namespace peal::cuda {

bool can_fold(const Conv2dSpec& spec);
// x', w', and no padding. Channels are filled up with zeros to a multiple of 8.
Conv2dSpec folded(const Conv2dSpec& spec);

// Halves, x row-major or channels-last as is said, to x' channels-last.
std::unique_ptr<Reorder> fold_pictures(const Conv2dSpec& spec, bool from_last);
// Row-major to channels-last.
std::unique_ptr<Reorder> fold_weights(const Conv2dSpec& spec);
// The gradient of w', channels-last of any type, to that of w, f32 and row-major.
std::unique_ptr<Reorder> unfold_weights(const Conv2dSpec& spec);

}  // namespace peal::cuda
