// Philox4x32-10 (Salmon et al., SC 2011, section 3.3), straight-line code for loops over counters
// on the CPU and in CUDA kernels. philox_key makes key and the high half of the counter.
#pragma once

#include <cstdint>

#include "core/base/clones.h"

namespace peal {

struct PhiloxKey {
  std::uint32_t key[2];
  std::uint32_t high[2];  // of the counter
};

// Bijective 64-bit mixer (splitmix64's finaliser).
PEAL_ANYWHERE std::uint64_t mix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

// A RandomKey (random.h) but for its site: what differs from pass to pass, as kernels read it from
// memory.
struct DrawKey {
  std::uint64_t seed = 0;
  std::uint64_t turn = 0;  // turn_of(step, stream)
};

PEAL_ANYWHERE std::uint64_t turn_of(std::uint64_t step, std::uint64_t stream) {
  return mix64(step) ^ mix64(~stream);
}

PEAL_ANYWHERE PhiloxKey philox_key(const DrawKey& draws, std::uint64_t site) {
  const std::uint64_t a = mix64(draws.seed ^ mix64(site));
  const std::uint64_t b = mix64(a ^ draws.turn);
  return {{static_cast<std::uint32_t>(a), static_cast<std::uint32_t>(a >> 32)},
          {static_cast<std::uint32_t>(b), static_cast<std::uint32_t>(b >> 32)}};
}

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
