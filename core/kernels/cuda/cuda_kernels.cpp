#include "core/kernels/cuda/cuda_kernels.h"

#include <vector>

#include "core/device/cuda/cuda_device.h"

namespace peal::cuda {
namespace {

std::vector<CudaKernels> one_a_device() {
  std::vector<CudaKernels> all;
  for (int index = 0; index < device_count(); ++index) {
    all.emplace_back(Device{Device::Kind::cuda, index});
  }
  return all;
}

}  // namespace

Kernels& kernels(const Device& device) {
  require(device);
  static std::vector<CudaKernels> all = one_a_device();
  return all[static_cast<std::size_t>(device.index)];
}

}  // namespace peal::cuda
