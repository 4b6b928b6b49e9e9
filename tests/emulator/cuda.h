// What nvcc declares by itself and kernels use, for translated sources, which are compiled with
// -include of this.
#pragma once

#include <cuda_runtime_api.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "tests/emulator/emulator.h"

#define __launch_bounds__(...)
#define threadIdx (::peal::emulator::here().thread)
#define blockIdx (::peal::emulator::here().block)
#define blockDim (::peal::emulator::here().threads)
#define gridDim (::peal::emulator::here().blocks)

using std::isfinite;
using std::isnan;
using std::max;
using std::min;
inline long min(long a, int b) {
  return std::min<long>(a, b);
}

inline void __syncthreads() {
  peal::emulator::sync_threads();
}
inline int __syncthreads_count(int counted) {
  return peal::emulator::sync_threads(counted != 0);
}
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  peal::emulator::exchange(peal::emulator::Exchange::sync, mask, 0, threadIdx.x % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int with, int width = 32) {
  return peal::emulator::shuffle_xor(mask, value, with, width);
}
inline unsigned __ballot_sync(unsigned mask, bool mine) {
  return peal::emulator::ballot(mask, mine);
}

// Threads take turns, so that nothing comes between.
template <typename T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = before + value;
  return before;
}

template <typename T>
T __ldg(const T* from) {
  return *from;
}
inline int __popc(unsigned bits) {
  return std::popcount(bits);
}
inline float __uint_as_float(unsigned bits) {
  return std::bit_cast<float>(bits);
}
inline unsigned __float_as_uint(float x) {
  return std::bit_cast<unsigned>(x);
}
inline double __hiloint2double(int high, int low) {
  return std::bit_cast<double>(static_cast<std::uint64_t>(static_cast<unsigned>(high)) << 32 |
                               static_cast<unsigned>(low));
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}

// Calls of the runtime.
#define cudaMemsetAsync(to, value, bytes, stream) \
  ::peal::emulator::enqueue(stream, [=] { std::memset(to, value, bytes); })
#define cudaFuncSetAttribute(kernel, attribute, value) \
  ::peal::emulator::allow_shared(kernel, static_cast<std::size_t>(value))
#define cudaDeviceGetAttribute(value, attribute, index) \
  (static_cast<void>(index), *(value) = static_cast<int>(::peal::emulator::kMostShared))
