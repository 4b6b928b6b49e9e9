#include "core/kernels/kernels.h"

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal {

Kernels& kernels(const Device& device) {
  if (device.kind == Device::Kind::cuda) return cuda::kernels(device);
  static cpu::CpuKernels cpu_kernels;
  return cpu_kernels;
}

}  // namespace peal
