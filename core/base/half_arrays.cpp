#include "core/base/half_arrays.h"

#include "core/base/clones.h"
#include "core/base/half_bits.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace peal {
namespace {

#if defined(__x86_64__)
constexpr std::size_t kLanes = 8;

// clang 14 does not know f16c by name. That AVX is there says that the system keeps its registers.
bool find_f16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0 &&
         __builtin_cpu_supports("avx") != 0;
}

bool has_f16c() {
  static const bool has = find_f16c();
  return has;
}

// Both return how many elements they did; less than kLanes are left.
__attribute__((target("avx,f16c"))) std::size_t widen_lanes(const std::uint16_t* from, float* to,
                                                            std::size_t n) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i));
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(half));
  }
  return i;
}

__attribute__((target("avx,f16c"))) std::size_t narrow_lanes(const float* from, std::uint16_t* to,
                                                             std::size_t n) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
  return i;
}
#else
bool has_f16c() {
  return false;
}
std::size_t widen_lanes(const std::uint16_t*, float*, std::size_t) {
  return 0;
}
std::size_t narrow_lanes(const float*, std::uint16_t*, std::size_t) {
  return 0;
}
#endif

}  // namespace

PEAL_CLONES void widen_f16_portable(const std::uint16_t* from, float* to, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) to[i] = widen_f16_bits(from[i]);
}

PEAL_CLONES void narrow_f16_portable(const float* from, std::uint16_t* to, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) to[i] = narrow_f16_bits(from[i]);
}

void widen_f16(const std::uint16_t* from, float* to, std::size_t n) {
  const std::size_t done = has_f16c() ? widen_lanes(from, to, n) : 0;
  if (done < n) widen_f16_portable(from + done, to + done, n - done);
}

void narrow_f16(const float* from, std::uint16_t* to, std::size_t n) {
  const std::size_t done = has_f16c() ? narrow_lanes(from, to, n) : 0;
  if (done < n) narrow_f16_portable(from + done, to + done, n - done);
}

PEAL_CLONES void widen_bf16(const std::uint16_t* __restrict from, float* __restrict to,
                            std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) to[i] = widen_bf16_bits(from[i]);
}

PEAL_CLONES void narrow_bf16(const float* __restrict from, std::uint16_t* __restrict to,
                             std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) to[i] = narrow_bf16_bits(from[i]);
}

}  // namespace peal
