#include <algorithm>

#include "core/kernels/cuda/bias.h"
#include "core/kernels/cuda/launch.cuh"

namespace peal::cuda {
namespace {

constexpr int kMine = 4;  // packs of a thread, all read before the first is written
constexpr std::int64_t kMostPacks = std::int64_t{1} << 31;  // of a launch, which counts in 32 bits

// `inner` packs in a row belong to one channel.
template <int kWidth, bool kBias, bool kRelu>
__global__ void __launch_bounds__(kThreads)
    bias_kernel(float* y, const float* b, unsigned packs, unsigned inner, unsigned channels) {
  auto* const y_packs = reinterpret_cast<Pack<kWidth>*>(y);
  const unsigned start = blockIdx.x * (kMine * kThreads) + threadIdx.x;
  Pack<kWidth> v[kMine];
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const unsigned i = start + k * kThreads;
    if (i < packs) v[k] = y_packs[i];
  }
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const unsigned i = start + k * kThreads;
    if (i >= packs) break;
    const float add = kBias ? b[i / inner % channels] : 0.0f;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const float sum = kBias ? v[k].of[e] + add : v[k].of[e];
      v[k].of[e] = kRelu && sum < 0 ? 0.0f : sum;  // a NaN passes through
    }
    y_packs[i] = v[k];
  }
}

template <int kWidth, bool kBias, bool kRelu>
void launch(const OnStream& on, float* y, const float* b, const BiasShape& shape) {
  const std::int64_t inner = shape.inner / kWidth, per_record = shape.channels * inner;
  const std::int64_t at_once = std::max<std::int64_t>(kMostPacks / per_record, 1);
  for (std::int64_t first = 0; first < shape.records; first += at_once) {
    const std::int64_t packs = std::min(at_once, shape.records - first) * per_record;
    bias_kernel<kWidth, kBias, kRelu>
        <<<blocks_for(packs, kMine * kThreads), kThreads, 0, on.stream>>>(
            y + first * per_record * kWidth, b, static_cast<unsigned>(packs),
            static_cast<unsigned>(inner), static_cast<unsigned>(shape.channels));
    check_launch("add_bias");
  }
}

template <bool kBias, bool kRelu>
void launch_width(const OnStream& on, float* y, const float* b, const BiasShape& shape) {
  if (shape.inner % kWide == 0 && aligned(y)) {
    launch<kWide, kBias, kRelu>(on, y, b, shape);
  } else {
    launch<1, kBias, kRelu>(on, y, b, shape);
  }
}

}  // namespace

// Reads and writes y once.
void add_bias(Stream& s, float* y, const float* b, const BiasShape& shape, Activation activation) {
  const bool relu = activation == Activation::relu;
  if ((b == nullptr && !relu) || shape.records * shape.channels * shape.inner == 0) return;
  const OnStream on(s);
  if (b == nullptr) {
    launch_width<false, true>(on, y, b, shape);
  } else if (relu) {
    launch_width<true, true>(on, y, b, shape);
  } else {
    launch_width<true, false>(on, y, b, shape);
  }
}

}  // namespace peal::cuda
