#include <cstring>

#include "core/kernels/cpu/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {
namespace {

constexpr std::int64_t kCounters = 16;             // computed side by side
constexpr std::int64_t kElements = 4 * kCounters;  // words they give

struct Words {
  std::uint32_t word[4][kCounters];
};

// Random::words (core/base/random.h) for counters first .. first + kCounters - 1.
PEAL_INLINE void philox(const Random& random, std::uint64_t first, Words& c) {
  const auto high = random.high();
  for (std::size_t j = 0; j < kCounters; ++j) {
    c.word[0][j] = static_cast<std::uint32_t>(first + j);
    c.word[1][j] = static_cast<std::uint32_t>((first + j) >> 32);
    c.word[2][j] = high[0];
    c.word[3][j] = high[1];
  }
  std::uint32_t k0 = random.key()[0], k1 = random.key()[1];
  for (int round = 0; round < 10; ++round) {
    for (std::size_t j = 0; j < kCounters; ++j) {
      const std::uint64_t p0 = std::uint64_t{0xD2511F53} * c.word[0][j];
      const std::uint64_t p1 = std::uint64_t{0xCD9E8D57} * c.word[2][j];
      c.word[0][j] = static_cast<std::uint32_t>(p1 >> 32) ^ c.word[1][j] ^ k0;
      c.word[2][j] = static_cast<std::uint32_t>(p0 >> 32) ^ c.word[3][j] ^ k1;
      c.word[1][j] = static_cast<std::uint32_t>(p1);
      c.word[3][j] = static_cast<std::uint32_t>(p0);
    }
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
}

// kElements elements, the first of which is element 4*first of the tensor.
PEAL_INLINE void drop_block(const Random& random, std::uint64_t first, float p, float keep_scale,
                            const float* x, float* y) {
  Words words;
  philox(random, first, words);
  std::int32_t draws[kElements];  // 24 bits, in the order of the elements
  for (std::size_t j = 0; j < kCounters; ++j) {
    for (std::size_t w = 0; w < 4; ++w) {
      draws[4 * j + w] = static_cast<std::int32_t>(words.word[w][j] >> 8);
    }
  }
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
