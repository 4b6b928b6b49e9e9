// out = f(in...) along a nest of loops: broadcasts, boxes, permutations. For .cu files alone.
#pragma once

#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/cuda/walk.h"

namespace peal::cuda {

// Operand kIn of the walk is the output. A pack whose innermost step is 0 repeats one element.
template <int kWidth, int kIn, typename From, typename To, typename F>
__global__ void __launch_bounds__(kThreads)
    walk_kernel(Walk walk, Arrays<const From, kIn> in, To* out, F f) {
  constexpr int kMine = kPacks<kIn>;
  const std::uint32_t start = blockIdx.x * kMine * kThreads + threadIdx.x;
  std::int64_t at[kMine][kIn + 1];
  Pack<kWidth> x[kMine][kIn];
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::uint32_t position = start + k * kThreads;
    if (position >= walk.positions) break;
    walk.find(position, at[k]);
#pragma unroll
    for (int a = 0; a < kIn; ++a) {
      const From* from = in.of[a] + at[k][a];
      if (kWidth > 1 && walk.axes[0].steps[a] == 0) {
#pragma unroll
        for (int i = 0; i < kWidth; ++i) x[k][a].of[i] = widen(*from);
      } else {
        x[k][a] = load_pack<kWidth>(from);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    if (start + k * kThreads >= walk.positions) break;
    Pack<kWidth> y;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float from[kIn];
#pragma unroll
      for (int a = 0; a < kIn; ++a) from[a] = x[k][a].of[i];
      f(from, &y.of[i]);
    }
    store_pack(out + at[k][kIn], y);
  }
}

// Whether operand `k` can be read or written `width` elements at a time all along the nest.
inline bool walks_wide(const Nest& nest, std::size_t k, int width, const void* data,
                       bool may_repeat) {
  const std::size_t last = nest.rank() - 1;
  if (may_repeat && nest[last].steps[k] == 0) return true;
  if (nest[last].steps[k] != 1 || !aligned(data)) return false;
  for (std::size_t a = 0; a < last; ++a) {
    if (nest[a].steps[k] % width != 0) return false;
  }
  return true;
}

template <int kWidth, int kIn, typename From, typename To, typename F>
void launch_walks(const OnStream& on, const char* name, const Nest& nest,
                  const Arrays<const From, kIn>& in, To* out, const F& f) {
  for_parts(nest, kWidth, [&](const Walk& walk, const Steps& start) {
    Arrays<const From, kIn> from;
    for (std::size_t a = 0; a < kIn; ++a) from.of[a] = in.of[a] + start[a];
    walk_kernel<kWidth, kIn>
        <<<blocks_for(walk.positions, kThreads * kPacks<kIn>), kThreads, 0, on.stream>>>(
            walk, from, out + start[kIn], f);
    check_launch(name);
  });
}

// f(const float* from, float* to) for every position of the nest, whose operands are in[0], ... and
// then out. One launch below 2^31 positions.
template <int kIn, typename From = float, typename To = From, typename F>
void for_nest(const Stream& s, const char* name, const Nest& nest,
              const Arrays<const From, kIn>& in, To* out, const F& f) {
  constexpr int kPack = kWideOf<To>;
  bool wide = nest.rank() > 0 && nest[nest.rank() - 1].size % kPack == 0 &&
              walks_wide(nest, kIn, kPack, out, /*may_repeat=*/false);
  for (std::size_t a = 0; a < kIn; ++a) wide = wide && walks_wide(nest, a, kPack, in.of[a], true);
  const OnStream on(s);
  if (wide) {
    launch_walks<kPack, kIn>(on, name, nest, in, out, f);
  } else {
    launch_walks<1, kIn>(on, name, nest, in, out, f);
  }
}

}  // namespace peal::cuda
