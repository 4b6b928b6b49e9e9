// Which piece of hardware memory and work belong to.
#pragma once

#include <cstdint>
#include <string>

namespace peal {

struct Device {
  enum class Kind : std::uint8_t { cpu, cuda };
  Kind kind = Kind::cpu;
  int index = 0;

  friend bool operator==(const Device&, const Device&) = default;
};

inline constexpr Device kCpu{};

std::string to_string(const Device& device);  // "cpu", "cuda:1"

// How many CUDA devices are visible; 0 without a driver, or where Peal is built without CUDA.
int cuda_device_count();
// Throws Error(input) that says why the device cannot be used; the CPU always can.
void require_device(const Device& device);
std::string cuda_version();                 // of the runtime: "13.0", or "built without CUDA"
std::string name_of(const Device& device);  // "cpu", "NVIDIA H100 80GB HBM3"
// Of a GPU: 32 digits that no other has (its UUID), whatever number it has here.
std::string identity_of(const Device& device);

}  // namespace peal
