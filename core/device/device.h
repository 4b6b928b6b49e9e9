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

}  // namespace peal
