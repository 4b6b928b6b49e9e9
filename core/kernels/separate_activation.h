// A product and the activation around it as two kernels, where a device does not have them as one.
#pragma once

#include <memory>

#include "core/kernels/kernels.h"

namespace peal {

// spec.activation is gelu_tanh.
std::unique_ptr<Matmul> make_separate_activation(Kernels& kernels, const MatmulSpec& spec);

}  // namespace peal
