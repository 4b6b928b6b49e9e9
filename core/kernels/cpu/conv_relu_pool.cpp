#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {

std::unique_ptr<ConvReluPool> CpuKernels::make_conv_relu_pool(const Conv2dSpec&,
                                                              const Pool2dSpec&) {
  return nullptr;
}

}  // namespace peal::cpu
