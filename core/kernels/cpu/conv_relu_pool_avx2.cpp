#include <immintrin.h>

#include "core/kernels/cpu/conv_relu_pool.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace peal::cpu::conv_relu_pool {
namespace {

struct Avx2 {
  using Floats = __m256;
  using Mask = __m256;  // all bits of a lane, or none
  using Bits = std::uint8_t;
  static constexpr std::int64_t kWidth = 8;

  static Floats load(const float* from) { return _mm256_loadu_ps(from); }
  static void store(float* to, Floats a) { _mm256_storeu_ps(to, a); }
  static Floats load_some(const float* from, Mask mask) {
    return _mm256_maskload_ps(from, _mm256_castps_si256(mask));
  }
  // Planes of y lie too far apart for the CPU to see what is written next, and stores wait for
  // their lines one after the other: asked for a vector early, 256 records of the benchmark take
  // half as long. Masked stores are slow on AMD's cores, so only what ends a plane is one.
  static void store_some(float* to, unsigned bits, Floats a) {
    __builtin_prefetch(to + kLanes, 1);
    if ((bits & 0xff) == 0xff) {
      store(to, a);
    } else {
      _mm256_maskstore_ps(to, _mm256_castps_si256(mask(bits)), a);
    }
  }

  static Floats set1(float a) { return _mm256_set1_ps(a); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  // b where either is NaN.
  static Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static Mask greater(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }

  // Of the lower eight bits.
  static Mask mask(unsigned bits) {
    const __m256i each = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(all, each), each));
  }
  static unsigned bits(Mask mask) { return static_cast<unsigned>(_mm256_movemask_ps(mask)); }
  // Of masks too.
  static Floats select(Mask mask, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, mask); }

  static Floats evens(Floats low, Floats high) {
    return in_order(_mm256_shuffle_ps(low, high, 0x88));
  }
  static Floats odds(Floats low, Floats high) {
    return in_order(_mm256_shuffle_ps(low, high, 0xdd));
  }
  // A shuffle works within 128 bits: it leaves pairs of low, high, low, high.
  static Floats in_order(Floats pairs) {
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(pairs), 0xd8));
  }
};

}  // namespace
}  // namespace peal::cpu::conv_relu_pool

#include "core/kernels/cpu/conv_relu_pool_pass.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace peal::cpu::conv_relu_pool {

Loops avx2_loops(std::int64_t kernel) {
  return loops_of<Avx2>(kernel);
}

}  // namespace peal::cpu::conv_relu_pool
