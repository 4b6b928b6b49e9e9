#include <cstring>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/pieces.h"

namespace peal::cpu {
namespace {

constexpr std::int64_t kCounters = 64;             // computed side by side
constexpr std::int64_t kElements = 4 * kCounters;  // words they give

// kElements elements, the first of which is element 4*first of the tensor.
PEAL_INLINE void drop_block(const PhiloxKey& key, std::uint64_t first, float p, float keep_scale,
                            const float* x, float* y) {
  std::int32_t draws[kElements];  // of 24 bits
  for (std::uint64_t j = 0; j < kCounters; ++j) {
    std::uint32_t words[4];
    philox(first + j, key, words);
    for (int w = 0; w < 4; ++w) draws[4 * j + w] = static_cast<std::int32_t>(words[w] >> 8);
  }
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < kElements; ++i) {
    const bool kept = static_cast<float>(draws[i]) * 0x1p-24f >= p;
    const float scaled = x[i] * keep_scale;
    y[i] = kept ? scaled : 0.0f;
  }
}

// `first`, a multiple of 4: of the tensor's elements.
PEAL_CLONES void drop(const PhiloxKey& key, std::int64_t first, float p, const float* x, float* y,
                      std::int64_t n) {
  const float keep_scale = 1.0f / (1.0f - p);
  std::int64_t i = 0;
  for (; i + kElements <= n; i += kElements) {
    drop_block(key, static_cast<std::uint64_t>((first + i) / 4), p, keep_scale, x + i, y + i);
  }
  if (i == n) return;
  float tail[kElements] = {};
  const auto bytes = static_cast<std::size_t>(n - i) * sizeof(float);
  std::memcpy(tail, x + i, bytes);
  drop_block(key, static_cast<std::uint64_t>((first + i) / 4), p, keep_scale, tail, tail);
  std::memcpy(y + i, tail, bytes);
}

}  // namespace

void CpuKernels::dropout(Stream&, const Tensor& draws, std::uint64_t site, float p, const Tensor& x,
                         Tensor y) {
  const PhiloxKey key = philox_key(*draws.as<DrawKey>(), site);
  for_pieces(x.dtype, x.numel(), [&](std::int64_t first, std::int64_t n) {
    drop(key, first, p, Reads(x, first, n), Writes(y, first, n), n);
  });
}

}  // namespace peal::cpu
