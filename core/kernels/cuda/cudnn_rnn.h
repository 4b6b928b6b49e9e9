// Recurrent layers as cuDNN computes them, without a type of cuDNN's.
#pragma once

#include <memory>

#include "core/kernels/kernels.h"

namespace peal::cuda {

// For specs without lengths: cuDNN wants those in host memory when its descriptors are made, and
// ours lie on the device and change from call to call. Throws Error(input) where cuDNN is not
// installed.
std::unique_ptr<Recurrent> make_cudnn_recurrent(const Device& device, const RecurrentSpec& spec);

}  // namespace peal::cuda
