#include <array>
#include <cstring>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {
namespace {

constexpr std::int64_t kCounters = 64;             // computed side by side
constexpr std::int64_t kElements = 4 * kCounters;  // words they give

// Random::words (core/base/random.h) of one counter, as 24-bit draws. Straight-line code, so that
// the loop over counters vectorises.
PEAL_INLINE void draw(std::uint64_t counter, const std::array<std::uint32_t, 2>& key,
                      const std::array<std::uint32_t, 2>& high, std::int32_t* draws) {
  auto c0 = static_cast<std::uint32_t>(counter);
  auto c1 = static_cast<std::uint32_t>(counter >> 32);
  std::uint32_t c2 = high[0], c3 = high[1];
  std::uint32_t k0 = key[0], k1 = key[1];
#pragma GCC unroll 10
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
  draws[0] = static_cast<std::int32_t>(c0 >> 8);
  draws[1] = static_cast<std::int32_t>(c1 >> 8);
  draws[2] = static_cast<std::int32_t>(c2 >> 8);
  draws[3] = static_cast<std::int32_t>(c3 >> 8);
}

// kElements elements, the first of which is element 4*first of the tensor.
PEAL_INLINE void drop_block(const Random& random, std::uint64_t first, float p, float keep_scale,
                            const float* x, float* y) {
  const auto key = random.key(), high = random.high();
  std::int32_t draws[kElements];
  for (std::uint64_t j = 0; j < kCounters; ++j) draw(first + j, key, high, draws + 4 * j);
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < kElements; ++i) {
    const bool kept = static_cast<float>(draws[i]) * 0x1p-24f >= p;
    const float scaled = x[i] * keep_scale;
    y[i] = kept ? scaled : 0.0f;
  }
}

PEAL_CLONES void drop(const Random& random, float p, const float* x, float* y, std::int64_t n) {
  const float keep_scale = 1.0f / (1.0f - p);
  std::int64_t i = 0;
  for (; i + kElements <= n; i += kElements) {
    drop_block(random, static_cast<std::uint64_t>(i / 4), p, keep_scale, x + i, y + i);
  }
  if (i == n) return;
  float tail[kElements] = {};
  const auto bytes = static_cast<std::size_t>(n - i) * sizeof(float);
  std::memcpy(tail, x + i, bytes);
  drop_block(random, static_cast<std::uint64_t>(i / 4), p, keep_scale, tail, tail);
  std::memcpy(y + i, tail, bytes);
}

}  // namespace

void CpuKernels::dropout(Stream&, const RandomKey& key, float p, const Tensor& x, Tensor y) {
  drop(Random(key), p, x.as<float>(), y.as<float>(), x.numel());
}

}  // namespace peal::cpu
