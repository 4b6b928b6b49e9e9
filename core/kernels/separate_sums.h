// A product and the sums of one of its operands as two kernels, where a device does not have them
// as one.
#pragma once

#include <memory>

#include "core/kernels/kernels.h"

namespace peal {

// spec.sums is not none.
std::unique_ptr<Matmul> make_separate_sums(Kernels& kernels, const MatmulSpec& spec);

}  // namespace peal
