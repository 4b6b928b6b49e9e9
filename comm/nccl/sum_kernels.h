// The kernels of a reduction on a CUDA device, enqueued on its stream. Throws Error(internal) when
// a launch fails.
#pragma once

#include "comm/element_sum.h"
#include "core/device/stream.h"

namespace peal::cuda {

// The sources of a plan into y, which may be a source; the steps lie in device memory. Reads every
// source and writes y once.
void launch_sum(Stream& s, const SumSteps& steps, const SumSources& sources, std::byte* y,
                std::size_t count, DType dtype);
// y /= divisor, integers towards zero.
void launch_divide(Stream& s, std::byte* y, std::size_t count, DType dtype, int divisor);

}  // namespace peal::cuda
