// Convolutions of 3x3 windows by tiles of 4x4 outputs, F(4x4, 3x3) of Lavin & Gray 2016 (section
// 4.2): 36 multiplications a tile instead of 144. For CPUs with AVX2 and FMA.
#pragma once

#include <memory>

#include "core/kernels/kernels.h"

namespace peal::cpu {

// Of a shape that the algorithm gains by, on any CPU: stride 1, 64 channels and more on both sides.
// Its errors are a few 1e-6 of the largest value with 64 to 512 channels, those of the direct way
// 1e-6.
bool suits_winograd(const Conv2dSpec& spec);

// nullptr: the CPU or its user (has_avx2) says no, or the shape does not suit, or channels are no
// multiple of 16, or what is stored is not f32. y has blocks of 8 channels; an x in another layout
// is copied first.
//
// Cost: 36 B ceil(OH/4) ceil(OW/4) C O multiplications a pass. Scratch memory: the transformed
// weights, 36 C O floats, and as many of tiles, or 1 MB. An element of y and dx is computed in the
// same order whatever the batch; dw is summed over tiles in shares whose number follows from the
// shape.
std::unique_ptr<Conv2d> make_winograd(const Conv2dSpec& spec);

}  // namespace peal::cpu
