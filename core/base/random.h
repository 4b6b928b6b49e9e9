// Counter-based random numbers: a value is a pure function of (key, index), so that it does not
// matter which rank or thread draws it, or in what order.
#pragma once

#include <array>
#include <cstdint>

#include "core/base/philox.h"

namespace peal {

// Names one stream of random numbers. `site` tells draws of one step apart (a dropout layer, an
// initialiser, an augmentation); use a different constant or op index for each.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint64_t stream = 0;  // virtual rank or record
  std::uint64_t site = 0;

  DrawKey draws() const { return {seed, turn_of(step, stream)}; }
};

// Philox (philox.h), keyed by a RandomKey.
class Random {
 public:
  explicit Random(const RandomKey& key);

  // Four independent 32-bit words for counter `index`.
  std::array<std::uint32_t, 4> words(std::uint64_t index) const;

  std::uint64_t u64(std::uint64_t index) const;
  float uniform(std::uint64_t index) const;  // [0, 1), 24 bits
  double normal(std::uint64_t index) const;  // mean 0, deviation 1 (Box-Muller)

  const PhiloxKey& philox_key() const { return key_; }  // for kernels that call philox() themselves

 private:
  PhiloxKey key_;
};

}  // namespace peal
