// Philox4x32-10 (Salmon et al., SC 2011, section 3.3), straight-line code for loops over counters
// on the CPU and in CUDA kernels. Random (random.h) makes key and the high half of the counter.
#pragma once

#include <cstdint>

#include "core/base/clones.h"

namespace peal {

struct PhiloxKey {
  std::uint32_t key[2];
  std::uint32_t high[2];  // of the counter
};

// The four words of counter (low, key.high).
PEAL_ANYWHERE void philox(std::uint64_t low, const PhiloxKey& key, std::uint32_t* words) {
  auto c0 = static_cast<std::uint32_t>(low);
  auto c1 = static_cast<std::uint32_t>(low >> 32);
  std::uint32_t c2 = key.high[0], c3 = key.high[1];
  std::uint32_t k0 = key.key[0], k1 = key.key[1];
  PEAL_UNROLL
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c0;
    const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c2;
    c0 = static_cast<std::uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c2 = static_cast<std::uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<std::uint32_t>(p1);
    c3 = static_cast<std::uint32_t>(p0);
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  words[0] = c0;
  words[1] = c1;
  words[2] = c2;
  words[3] = c3;
}

}  // namespace peal
