#include "comm/f16.h"

#include <bit>

#include "core/base/clones.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace peal {
namespace {

// Branch-free, so that it vectorises; subnormals go by way of an integer, which costs no CPU extra.
PEAL_INLINE float widen(std::uint16_t half) {
  const std::uint32_t size = half & 0x7fffu;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const float small = static_cast<float>(static_cast<std::int32_t>(size)) * 0x1p-24f;
  std::uint32_t bits = (size << 13) + (112u << 23);
  bits = size < 0x400u ? std::bit_cast<std::uint32_t>(small) : bits;
  bits = size >= 0x7c00u ? bits | 0x7f800000u : bits;
  return std::bit_cast<float>(bits | sign);
}

// Half of the last bit that stays, less one where that bit is even, rounds what is cut off to
// nearest even.
PEAL_INLINE std::uint16_t narrow(float value) {
  constexpr std::uint32_t kOver = 0x47800000u;  // 2^16
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7fffffffu;
  const std::uint32_t held = size < kOver ? size : kOver;
  std::uint32_t half = (held - (112u << 23) + 0xfffu + (held >> 13 & 1u)) >> 13;
  // Below 2^-14 the last bit of an f16 is 2^-24, which is that of 0.5 + x in f32.
  const float shifted = std::bit_cast<float>(held) + 0.5f;
  half = held < (113u << 23) ? std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u : half;
  half = size > 0x7f800000u ? 0x7e00u : half;
  return static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000u));
}

#if defined(__x86_64__)
constexpr std::size_t kLanes = 8;

bool has_f16c() {
  static const bool has = __builtin_cpu_supports("f16c") != 0 && __builtin_cpu_supports("avx") != 0;
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
  for (std::size_t i = 0; i < n; ++i) to[i] = widen(from[i]);
}

PEAL_CLONES void narrow_f16_portable(const float* from, std::uint16_t* to, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) to[i] = narrow(from[i]);
}

void widen_f16(const std::uint16_t* from, float* to, std::size_t n) {
  const std::size_t done = has_f16c() ? widen_lanes(from, to, n) : 0;
  if (done < n) widen_f16_portable(from + done, to + done, n - done);
}

void narrow_f16(const float* from, std::uint16_t* to, std::size_t n) {
  const std::size_t done = has_f16c() ? narrow_lanes(from, to, n) : 0;
  if (done < n) narrow_f16_portable(from + done, to + done, n - done);
}

}  // namespace peal
