// Elements as they are stored (kernels.h): f32, or a half type that is widened when it is read and
// rounded when it is written. Kernels compute with floats between; which type it is is looked at
// once, by for_stored. For .cu files alone.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "core/base/dtype.h"
#include "core/kernels/cuda/ptx.cuh"

namespace peal::cuda {

using Bf16 = __nv_bfloat16;
using F16 = __half;

// f(Stored<T>()) for the T that is `dtype`; f32 stands for whatever is no half type.
template <typename T>
struct Stored {
  using Type = T;
};

template <class F>
void for_stored(DType dtype, const F& f) {
  if (dtype == DType::bf16) return f(Stored<Bf16>());
  if (dtype == DType::f16) return f(Stored<F16>());
  f(Stored<float>());
}

// ---- One element, and two in a word ---------------------------------------------------------

__device__ inline float widen(float x) {
  return x;
}
__device__ inline float widen(Bf16 x) {
  return __bfloat162float(x);
}
__device__ inline float widen(F16 x) {
  return __half2float(x);
}

// To nearest even.
template <typename T>
__device__ T rounded(float x) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return __float2bfloat16_rn(x);
  } else if constexpr (std::is_same_v<T, F16>) {
    return __float2half_rn(x);
  } else {
    return x;
  }
}

// The first lies in the lower half of the word.
template <typename T>
__device__ float2 widen_two(unsigned word) {
  if constexpr (std::is_same_v<T, Bf16>) {
    return {__uint_as_float(word << 16), __uint_as_float(word & 0xffff0000u)};
  } else {
    return __half22float2(*reinterpret_cast<const __half2*>(&word));
  }
}

template <typename T>
__device__ unsigned round_two(float first, float second) {
  if constexpr (std::is_same_v<T, Bf16>) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const unsigned*>(&both);
  } else {
    const __half2 both = __floats2half2_rn(first, second);
    return *reinterpret_cast<const unsigned*>(&both);
  }
}

// ---- Packs ------------------------------------------------------------------------------------

// Neighbouring elements that are read and written at once.
template <int kWidth>
struct alignas(sizeof(float) * kWidth) Pack {
  float of[kWidth];
};

constexpr int kPackBytes = 16;
template <typename T>
constexpr int kWideOf = kPackBytes / static_cast<int>(sizeof(T));  // elements: 4, 8 of a half type
constexpr int kWide = kWideOf<float>;

// What pointers to packs are aligned to; a pack of halves may be the half of 16 bytes.
inline bool aligned(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % kPackBytes == 0;
}

// By way of CUDA's own types for reading and of the instruction for writing, as the compiler now
// and then takes apart what it is asked to copy as a struct.
template <int kWidth, typename T>
__device__ Pack<kWidth> load_pack(const T* from) {
  Pack<kWidth> pack;
  if constexpr (kWidth == 1) {
    pack.of[0] = widen(*from);
  } else if constexpr (!std::is_same_v<T, float>) {
    static_assert(kWidth == 2 || kWidth == 4 || kWidth == 8);
    unsigned words[kWidth / 2];
    if constexpr (kWidth == 2) {
      words[0] = *reinterpret_cast<const unsigned*>(from);
    } else if constexpr (kWidth == 8) {
      const uint4 v = *reinterpret_cast<const uint4*>(from);
      words[0] = v.x, words[1] = v.y, words[2] = v.z, words[3] = v.w;
    } else {
      const uint2 v = *reinterpret_cast<const uint2*>(from);
      words[0] = v.x, words[1] = v.y;
    }
#pragma unroll
    for (int w = 0; w < kWidth / 2; ++w) {
      const float2 two = widen_two<T>(words[w]);
      pack.of[2 * w] = two.x;
      pack.of[2 * w + 1] = two.y;
    }
  } else if constexpr (kWidth % kWide == 0) {
#pragma unroll
    for (int e = 0; e < kWidth; e += kWide) {
      const float4 v = *reinterpret_cast<const float4*>(from + e);
      pack.of[e] = v.x, pack.of[e + 1] = v.y, pack.of[e + 2] = v.z, pack.of[e + 3] = v.w;
    }
  } else {
    pack = *reinterpret_cast<const Pack<kWidth>*>(from);
  }
  return pack;
}

// To global memory.
template <int kWidth, typename T>
__device__ void store_pack(T* to, const Pack<kWidth>& pack) {
  if constexpr (kWidth == 1) {
    *to = rounded<T>(pack.of[0]);
  } else if constexpr (!std::is_same_v<T, float>) {
    static_assert(kWidth == 4 || kWidth == 8);
    unsigned words[kWidth / 2];
#pragma unroll
    for (int w = 0; w < kWidth / 2; ++w) {
      words[w] = round_two<T>(pack.of[2 * w], pack.of[2 * w + 1]);
    }
    if constexpr (kWidth == 8) {
      store_global(to, uint4{words[0], words[1], words[2], words[3]});
    } else {
      store_global(to, uint2{words[0], words[1]});
    }
  } else if constexpr (kWidth % kWide == 0) {
#pragma unroll
    for (int e = 0; e < kWidth; e += kWide) {
      store_global(to + e, float4{pack.of[e], pack.of[e + 1], pack.of[e + 2], pack.of[e + 3]});
    }
  } else {
    *reinterpret_cast<Pack<kWidth>*>(to) = pack;
  }
}

// A pack as it was read: of halves in half the registers that its floats take, for kernels that
// read many before they look at the first.
template <int kWidth, typename T>
struct AsRead {
  Pack<kWidth> pack;
  __device__ Pack<kWidth> widened() const { return pack; }
};
template <int kWidth, typename T>
requires(kWidth == 8 && !std::is_same_v<T, float>) struct AsRead<kWidth, T> {
  uint4 words;
  __device__ Pack<kWidth> widened() const {
    const unsigned each[] = {words.x, words.y, words.z, words.w};
    Pack<kWidth> pack;
#pragma unroll
    for (int w = 0; w < kWidth / 2; ++w) {
      const float2 two = widen_two<T>(each[w]);
      pack.of[2 * w] = two.x;
      pack.of[2 * w + 1] = two.y;
    }
    return pack;
  }
};

// The same, or one by one where `wide` says that they are not aligned; the same bits either way.
template <int kWidth, typename T>
__device__ Pack<kWidth> read_pack(const T* from, bool wide) {
  if constexpr (kWidth == 1) return {{widen(*from)}};
  if (wide) return load_pack<kWidth>(from);
  Pack<kWidth> pack;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) pack.of[e] = widen(from[e]);
  return pack;
}

template <int kWidth, typename T>
__device__ AsRead<kWidth, T> read_as_is(const T* from, bool wide) {
  if constexpr (kWidth == 8 && !std::is_same_v<T, float>) {
    if (wide) return {*reinterpret_cast<const uint4*>(from)};
    const auto* const bits = reinterpret_cast<const unsigned short*>(from);
    const auto two = [&](int e) { return bits[e] | static_cast<unsigned>(bits[e + 1]) << 16; };
    return {{two(0), two(2), two(4), two(6)}};
  } else {
    return {read_pack<kWidth>(from, wide)};
  }
}

// As it was read, to shared memory.
template <int kWidth, typename T>
__device__ void hold(T* to, const AsRead<kWidth, T>& read) {
  if constexpr (kWidth == 8 && !std::is_same_v<T, float>) {
    *reinterpret_cast<uint4*>(to) = read.words;
  } else if constexpr (kWidth == 1) {
    *to = rounded<T>(read.pack.of[0]);
  } else {
    *reinterpret_cast<Pack<kWidth>*>(to) = read.pack;
  }
}

template <int kWidth, typename T>
__device__ void write_pack(T* to, const Pack<kWidth>& pack, bool wide) {
  if (wide) {
    store_pack<kWidth>(to, pack);
    return;
  }
#pragma unroll
  for (int e = 0; e < kWidth; ++e) to[e] = rounded<T>(pack.of[e]);
}

}  // namespace peal::cuda
