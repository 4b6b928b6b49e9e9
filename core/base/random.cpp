#include "core/base/random.h"

#include <cmath>
#include <numbers>

namespace peal {

Random::Random(const RandomKey& key) : key_(peal::philox_key(key.draws(), key.site)) {}

std::array<std::uint32_t, 4> Random::words(std::uint64_t index) const {
  std::array<std::uint32_t, 4> out;
  philox(index, key_, out.data());
  return out;
}

std::uint64_t Random::u64(std::uint64_t index) const {
  const auto w = words(index);
  return (std::uint64_t{w[1]} << 32) | w[0];
}

float Random::uniform(std::uint64_t index) const {
  return static_cast<float>(words(index)[0] >> 8) * 0x1p-24f;
}

double Random::normal(std::uint64_t index) const {
  const auto w = words(index);
  const double u = (static_cast<double>(w[0]) + 1.0) * 0x1p-32;  // (0, 1]
  const double v = static_cast<double>(w[1]) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace peal
