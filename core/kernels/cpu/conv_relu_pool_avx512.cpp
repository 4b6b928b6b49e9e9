// GCC 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include "core/kernels/cpu/conv_relu_pool.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif

namespace peal::cpu::conv_relu_pool {
namespace {

struct Avx512 {
  using Floats = __m512;
  using Mask = __mmask16;
  using Bits = std::uint16_t;
  static constexpr std::int64_t kWidth = 16;

  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static void store(float* to, Floats a) { _mm512_storeu_ps(to, a); }
  static Floats load_some(const float* from, Mask mask) {
    return _mm512_maskz_loadu_ps(mask, from);
  }
  static void store_some(float* to, unsigned bits, Floats a) {
    _mm512_mask_storeu_ps(to, mask(bits), a);
  }

  static Floats set1(float a) { return _mm512_set1_ps(a); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  // b where either is NaN.
  static Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static Mask greater(Floats a, Floats b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }

  static Mask mask(unsigned bits) { return static_cast<Mask>(bits); }
  static unsigned bits(Mask mask) { return mask; }
  static Mask select(Mask mask, Mask yes, Mask no) {
    return static_cast<Mask>((mask & yes) | (~mask & no));
  }
  static Floats select(Mask mask, Floats yes, Floats no) {
    return _mm512_mask_blend_ps(mask, no, yes);
  }

  static Floats evens(Floats low, Floats high) {
    return _mm512_permutex2var_ps(low, every_second(0), high);
  }
  static Floats odds(Floats low, Floats high) {
    return _mm512_permutex2var_ps(low, every_second(1), high);
  }
  static __m512i every_second(int first) {
    const __m512i evens =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return _mm512_add_epi32(evens, _mm512_set1_epi32(first));
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

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

Loops avx512_loops(std::int64_t kernel) {
  return loops_of<Avx512>(kernel);
}

}  // namespace peal::cpu::conv_relu_pool
