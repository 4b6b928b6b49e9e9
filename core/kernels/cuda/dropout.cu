// Element i's draw is word i % 4 of counter i / 4, as on the CPU: same key, same elements dropped.
#include <cmath>

#include "core/base/philox.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/launch.cuh"

namespace peal::cuda {
namespace {

constexpr int kWords = 4;  // of a counter
constexpr int kMine = 4;   // counters of a thread, whose elements are read before any is written

struct Drop {
  const DrawKey* draws;
  std::uint64_t site;
  std::uint32_t dropped;  // of 2^24 draws: p * 2^24, rounded up
  float keep_scale;

  __device__ float operator()(std::uint32_t word, float x) const {
    return word >> 8 >= dropped ? x * keep_scale : 0.0f;
  }
};

// kWidth is 4 where x and y are aligned to 16 bytes, else 1.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kThreads)
    dropout_kernel(Drop drop, const T* x, T* y, std::int64_t n) {
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kMine * kThreads + threadIdx.x;
  Pack<kWidth> v[kMine][kWords / kWidth];
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t first = (start + k * kThreads) * kWords;
#pragma unroll
    for (int i = 0; i < kWords; i += kWidth) {
      if (first + i + kWidth <= n) {
        v[k][i / kWidth] = load_pack<kWidth>(x + first + i);
      }
    }
  }
  const PhiloxKey key = philox_key(*drop.draws, drop.site);
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t counter = start + k * kThreads, first = counter * kWords;
    if (first >= n) break;
    std::uint32_t words[kWords];
    philox(static_cast<std::uint64_t>(counter), key, words);
#pragma unroll
    for (int i = 0; i < kWords; i += kWidth) {
      if (first + i + kWidth <= n) {
        Pack<kWidth>& pack = v[k][i / kWidth];
#pragma unroll
        for (int w = 0; w < kWidth; ++w) pack.of[w] = drop(words[i + w], pack.of[w]);
        store_pack(y + first + i, pack);
      } else {
#pragma unroll
        for (int w = 0; w < kWidth; ++w) {
          const std::int64_t at = first + i + w;
          if (at < n) y[at] = rounded<T>(drop(words[i + w], widen(x[at])));
        }
      }
    }
  }
}

}  // namespace

void CudaKernels::dropout(Stream& s, const Tensor& draws, std::uint64_t site, float p,
                          const Tensor& x, Tensor y) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const auto dropped = static_cast<std::uint32_t>(std::ceil(p * 0x1p24f));
  const Drop drop{draws.as<DrawKey>(), site, dropped, 1.0f / (1.0f - p)};
  const unsigned blocks = blocks_for(n, kWords * kMine * kThreads);
  const OnStream on(s);
  const bool wide = aligned(x.data) && aligned(y.data);
  for_stored(x.dtype, [&]<typename T>(Stored<T>) {
    const auto kernel = wide ? dropout_kernel<kWide, T> : dropout_kernel<1, T>;
    kernel<<<blocks, kThreads, 0, on.stream>>>(drop, x.as<T>(), y.as<T>(), n);
  });
  check_launch("dropout");
}

}  // namespace peal::cuda
