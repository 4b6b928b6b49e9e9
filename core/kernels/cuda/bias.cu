#include <algorithm>

#include "core/kernels/cuda/bias.h"
#include "core/kernels/cuda/launch.cuh"

namespace peal::cuda {
namespace {

constexpr int kMine = 4;  // packs of a thread, all read before the first is written
constexpr std::int64_t kMostPacks = std::int64_t{1} << 31;  // of a launch, which counts in 32 bits

// What is added to pack i: `inner` packs in a row belong to one of `channels`, or, where kAcross, a
// pack to kWidth channels side by side, of which there are `channels` packs.
template <int kWidth, bool kAcross>
__device__ Pack<kWidth> bias_of(const float* b, bool wide, unsigned i, unsigned inner,
                                unsigned channels) {
  if constexpr (kAcross) {
    return read_pack<kWidth>(b + i % channels * kWidth, wide);
  } else {
    Pack<kWidth> pack;
    pack.of[0] = b[i / inner % channels];
#pragma unroll
    for (int e = 1; e < kWidth; ++e) pack.of[e] = pack.of[0];
    return pack;
  }
}

template <int kWidth, bool kAcross, bool kBias, bool kRelu, typename T>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(T* y, const float* b, bool wide, unsigned packs, unsigned inner,
                unsigned channels) {
  const unsigned start = blockIdx.x * (kMine * kThreads) + threadIdx.x;
  Pack<kWidth> v[kMine];
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const unsigned i = start + k * kThreads;
    if (i < packs) v[k] = load_pack<kWidth>(y + std::int64_t{i} * kWidth);
  }
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const unsigned i = start + k * kThreads;
    if (i >= packs) break;
    Pack<kWidth> add = {};
    if constexpr (kBias) add = bias_of<kWidth, kAcross>(b, wide, i, inner, channels);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const float sum = kBias ? v[k].of[e] + add.of[e] : v[k].of[e];
      v[k].of[e] = kRelu && sum < 0 ? 0.0f : sum;  // a NaN passes through
    }
    store_pack(y + std::int64_t{i} * kWidth, v[k]);
  }
}

// As many records at once as 32 bits count packs of.
template <int kWidth, bool kAcross, bool kBias, bool kRelu, typename T>
void launch(const OnStream& on, T* y, const float* b, const BiasShape& shape) {
  const std::int64_t inner = kAcross ? 1 : shape.inner / kWidth;
  const std::int64_t channels = kAcross ? shape.channels / kWidth : shape.channels;
  const std::int64_t per_record = channels * inner;
  const std::int64_t at_once = std::max<std::int64_t>(kMostPacks / per_record, 1);
  for (std::int64_t first = 0; first < shape.records; first += at_once) {
    const std::int64_t packs = std::min(at_once, shape.records - first) * per_record;
    bias_kernel<kWidth, kAcross, kBias, kRelu>
        <<<blocks_for(packs, kMine * kThreads), kThreads, 0, on.stream>>>(
            y + first * per_record * kWidth, b, aligned(b), static_cast<unsigned>(packs),
            static_cast<unsigned>(inner), static_cast<unsigned>(channels));
    check_launch("add_bias");
  }
}

template <bool kBias, bool kRelu, typename T>
void launch_width(const OnStream& on, T* y, const float* b, const BiasShape& shape) {
  if (shape.inner % kWideOf<T> == 0 && aligned(y)) {
    launch<kWideOf<T>, false, kBias, kRelu>(on, y, b, shape);
  } else if (shape.inner == 1 && shape.channels % kWideOf<T> == 0 && aligned(y)) {
    launch<kWideOf<T>, true, kBias, kRelu>(on, y, b, shape);
  } else {
    launch<1, false, kBias, kRelu>(on, y, b, shape);
  }
}

}  // namespace

// Reads and writes y once.
void add_bias(Stream& s, const Tensor& y, const float* b, const BiasShape& shape,
              Activation activation) {
  const bool relu = activation == Activation::relu;
  if ((b == nullptr && !relu) || shape.records * shape.channels * shape.inner == 0) return;
  const OnStream on(s);
  for_stored(y.dtype, [&]<typename T>(Stored<T>) {
    if (b == nullptr) {
      launch_width<false, true>(on, y.as<T>(), b, shape);
    } else if (relu) {
      launch_width<true, true>(on, y.as<T>(), b, shape);
    } else {
      launch_width<true, false>(on, y.as<T>(), b, shape);
    }
  });
}

}  // namespace peal::cuda
