// The device that tests of kernels, graphs and optimizers run on, chosen by the environment
// variable PEAL_TEST_DEVICE: "cpu" (the default), "cuda:N", or "mirrored-cpu", which is the CPU
// behind the adapter that kernels_test uses on a GPU (tests/kernels/mirrored_kernels.h).
//
// A test that is about the CPU alone stands in a suite whose name begins with Cpu and runs there
// whatever is chosen; on another device it counts for nothing and is left out:
//   PEAL_TEST_DEVICE=cuda:0 build/kernels_test --gtest_filter=-*Cpu*
#pragma once

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/device/buffer.h"
#include "core/device/stream.h"

namespace peal {

struct TestDevice {
  Device device;
  bool mirrored = false;  // host memory is copied there and back for each kernel
};

inline TestDevice read_test_device() {
  const char* set = std::getenv("PEAL_TEST_DEVICE");
  const std::string name = set == nullptr ? "cpu" : set;
  if (name == "cpu") return {};
  if (name == "mirrored-cpu") return {kCpu, true};
  if (name.starts_with("cuda:") && name.size() > 5 &&
      name.find_first_not_of("0123456789", 5) == std::string::npos) {
    const Device device{Device::Kind::cuda, std::stoi(name.substr(5))};
    require_device(device);
    return {device, true};
  }
  throw std::runtime_error("PEAL_TEST_DEVICE is \"" + name +
                           "\"; allowed: cpu, mirrored-cpu, cuda:N");
}

inline const TestDevice& test_device() {
  static const TestDevice device = read_test_device();
  return device;
}

// Copies of host memory on a device and back; all wait.
inline void to_device(Stream& s, std::byte* there, const void* here, std::size_t bytes) {
  copy(s, there, static_cast<const std::byte*>(here), bytes);
  s.synchronize();
}

template <typename T>
std::vector<T> from_device(Stream& s, const void* there, std::size_t count) {
  std::vector<T> here(count);
  copy(s, reinterpret_cast<std::byte*>(here.data()), static_cast<const std::byte*>(there),
       count * sizeof(T));
  s.synchronize();
  return here;
}

}  // namespace peal
