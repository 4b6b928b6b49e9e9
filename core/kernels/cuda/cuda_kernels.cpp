#include "core/kernels/cuda/cuda_kernels.h"

#include "core/device/cuda/cuda_device.h"

namespace peal::cuda {

Kernels& kernels(const Device& device) {
  require(device);
  static CudaKernels cuda_kernels;  // holds nothing of a device: each call looks at its stream's
  return cuda_kernels;
}

}  // namespace peal::cuda
