// Counter-based random numbers: a value is a pure function of (key, index), so that it does not
// matter which rank or thread draws it, or in what order.
#pragma once

#include <array>
#include <cstdint>

namespace peal {

// Names one stream of random numbers. `site` tells draws of one step apart (a dropout layer, an
// initialiser, an augmentation); use a different constant or op index for each.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t stream = 0;  // virtual rank or record
  std::uint64_t site = 0;
};

// Philox4x32-10 (Salmon et al., SC 2011, section 3.3), keyed by a RandomKey.
class Random {
 public:
  explicit Random(const RandomKey& key);

  // Four independent 32-bit words for counter `index`.
  std::array<std::uint32_t, 4> words(std::uint64_t index) const;

  std::uint64_t u64(std::uint64_t index) const;
  float uniform(std::uint64_t index) const;  // [0, 1), 24 bits
  double normal(std::uint64_t index) const;  // mean 0, deviation 1 (Box-Muller)

  // The raw key and high counter words, for kernels that vectorise the rounds themselves.
  std::array<std::uint32_t, 2> key() const { return key_; }
  std::array<std::uint32_t, 2> high() const { return high_; }

 private:
  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 2> high_;
};

// Bijective 64-bit mixer (splitmix64's finaliser).
std::uint64_t mix64(std::uint64_t x);

}  // namespace peal
