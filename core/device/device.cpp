#include "core/device/device.h"

#include "core/device/cuda/cuda_device.h"

namespace peal {

std::string to_string(const Device& device) {
  return device.kind == Device::Kind::cpu ? "cpu" : "cuda:" + std::to_string(device.index);
}

int cuda_device_count() {
  return cuda::device_count();
}

void require_device(const Device& device) {
  if (device.kind == Device::Kind::cuda) cuda::require(device);
}

std::string cuda_version() {
  return cuda::runtime_version();
}

std::string identity_of(const Device& device) {
  return device.kind == Device::Kind::cuda ? cuda::device_identity(device) : to_string(device);
}

std::string name_of(const Device& device) {
  return device.kind == Device::Kind::cuda ? cuda::device_name(device) : to_string(device);
}

}  // namespace peal
