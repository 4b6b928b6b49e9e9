#include "core/base/random.h"

#include <cmath>
#include <numbers>

namespace peal {

std::uint64_t mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

Random::Random(const RandomKey& key) {
  const std::uint64_t a = mix64(key.seed ^ mix64(key.site));
  const std::uint64_t b = mix64(a ^ mix64(key.step) ^ mix64(~key.stream));
  key_ = {.key = {static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(a >> 32)},
          .high = {static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(b >> 32)}};
}

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
