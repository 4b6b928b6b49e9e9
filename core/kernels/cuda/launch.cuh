// What every kernel of the CUDA backend is launched and written with. For .cu files alone, which
// the compiler gives CUDA's own declarations.
//
// Grids depend on shapes alone, never on the chip: so do orders of summation.
#pragma once

#include <cstdint>

#include "core/device/cuda/cuda_device.h"
#include "core/device/stream.h"
#include "core/kernels/cuda/stored.cuh"

namespace peal::cuda {

constexpr int kThreads = 256;  // of a block, unless a kernel says otherwise
constexpr int kWarp = 32;

// The stream of a call; its device is the thread's current one as long as this lives.
//   const OnStream on(s);
//   some_kernel<<<blocks, kThreads, 0, on.stream>>>(...);
//   check_launch("some_kernel");
struct OnStream {
  explicit OnStream(const Stream& s)
      : current(s.device()), stream(static_cast<cudaStream_t>(s.handle())) {}
  Current current;
  cudaStream_t stream;
};

__host__ __device__ constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

// Blocks for `items` of which each does `per_block`: along x, where 2^31 - 1 are allowed.
inline unsigned blocks_for(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>(ceil_div(items, per_block));
}

// ---- Sums of a fixed shape ------------------------------------------------------------------

struct Plus {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// Over kLanes neighbouring threads of a warp (a power of two), at each of them; op is commutative,
// so that all of them have the same bits. Every thread of the warp calls it.
template <int kLanes = kWarp, typename T, typename Op = Plus>
__device__ T warp_reduce(T value, Op op = {}) {
#pragma unroll
  for (int apart = kLanes / 2; apart > 0; apart /= 2) {
    value = op(value, __shfl_xor_sync(0xffffffffu, value, apart, kLanes));
  }
  return value;
}

// Over the kBlock threads of a block (a multiple of 32, whose quotient is a power of two), at each
// of them: a tree over each warp, then one over the warps. All threads call it; it may be called
// again at once.
template <int kBlock = kThreads, typename T, typename Op = Plus>
__device__ T block_reduce(T value, Op op = {}) {
  constexpr int kWarps = kBlock / kWarp;
  static_assert(kBlock % kWarp == 0 && kWarps <= kWarp && (kWarps & (kWarps - 1)) == 0);
  value = warp_reduce(value, op);
  if constexpr (kWarps == 1) return value;
  __shared__ T of_warp[kWarps];
  if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
  __syncthreads();
  value = of_warp[threadIdx.x % kWarps];
  __syncthreads();  // before the next call writes there
  return warp_reduce<kWarps>(value, op);
}

// ---- Element by element ---------------------------------------------------------------------

template <typename T, int kCount>
struct Arrays {
  T* of[kCount > 0 ? kCount : 1];
};

// Packs that a thread reads before it writes the first: about four reads under way at once.
template <int kIn>
constexpr int kPacks = kIn >= 3   ? 1
                       : kIn == 2 ? 2
                                  : 4;

// Of the packs of a block's part, a thread has every kThreads-th. The elements after the last whole
// pack are done one by one by the thread that would have that pack.
template <int kWidth, int kIn, int kOut, typename From, typename To, typename F>
__global__ void __launch_bounds__(kThreads)
    elementwise_kernel(Arrays<const From, kIn> in, Arrays<To, kOut> out, std::int64_t n, F f) {
  constexpr int kMine = kPacks<kIn>;
  const std::int64_t start =
      (static_cast<std::int64_t>(blockIdx.x) * kMine * kThreads + threadIdx.x) * kWidth;
  Pack<kWidth> x[kMine][kIn > 0 ? kIn : 1] = {};
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t first = start + k * kThreads * kWidth;
    if (first + kWidth > n) continue;
#pragma unroll
    for (int a = 0; a < kIn; ++a) {
      x[k][a] = load_pack<kWidth>(in.of[a] + first);
    }
  }
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t first = start + k * kThreads * kWidth;
    if (first + kWidth > n) {
#pragma unroll 1
      for (std::int64_t i = first; i < n; ++i) {
        float from[kIn > 0 ? kIn : 1], to[kOut];
        for (int a = 0; a < kIn; ++a) from[a] = widen(in.of[a][i]);
        f(from, to);
        for (int a = 0; a < kOut; ++a) out.of[a][i] = rounded<To>(to[a]);
      }
      break;
    }
    Pack<kWidth> y[kOut];
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      float from[kIn > 0 ? kIn : 1], to[kOut];
#pragma unroll
      for (int a = 0; a < kIn; ++a) from[a] = x[k][a].of[i];
      f(from, to);
#pragma unroll
      for (int a = 0; a < kOut; ++a) y[a].of[i] = to[a];
    }
#pragma unroll
    for (int a = 0; a < kOut; ++a) {
      store_pack(out.of[a] + first, y[a]);
    }
  }
}

template <int kWidth, int kIn, int kOut, typename From, typename To, typename F>
void launch_width(const OnStream& on, std::int64_t n, const Arrays<const From, kIn>& in,
                  const Arrays<To, kOut>& out, const F& f) {
  const unsigned blocks = blocks_for(n, kThreads * kPacks<kIn> * kWidth);
  elementwise_kernel<kWidth, kIn, kOut><<<blocks, kThreads, 0, on.stream>>>(in, out, n, f);
}

// f(const float* from, float* to) for each of n elements: from[a] is that of in.of[a], to[a]
// becomes that of out.of[a]. An output may be an input. Of 16-byte aligned arrays 16 bytes are
// written at a time: neighbouring threads then write neighbouring bytes, also where halves become
// f32. F is a copyable struct with a __device__ call operator.
template <int kIn, int kOut, typename From = float, typename To = From, typename F>
void for_elements(const Stream& s, const char* name, std::int64_t n,
                  const Arrays<const From, kIn>& in, const Arrays<To, kOut>& out, const F& f) {
  if (n == 0) return;
  bool wide = true;
  for (int a = 0; a < kIn; ++a) wide = wide && aligned(in.of[a]);
  for (int a = 0; a < kOut; ++a) wide = wide && aligned(out.of[a]);
  const OnStream on(s);
  if (wide) {
    launch_width<kWideOf<To>>(on, n, in, out, f);
  } else {
    launch_width<1>(on, n, in, out, f);
  }
  check_launch(name);
}

}  // namespace peal::cuda
