#include "comm/wire.h"

#include <algorithm>

#include "core/base/clones.h"
#include "core/base/half_arrays.h"
#include "core/base/half_bits.h"

namespace peal {
namespace {

// f16 goes through arrays that stay in the nearest cache.
constexpr std::size_t kSome = 256;

PEAL_INLINE float round_bf16(float value) {
  return widen_bf16_bits(narrow_bf16_bits(value));
}

PEAL_CLONES void add_rounded_bf16(const float* from, float* into, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) {
    into[i] = round_bf16(round_bf16(into[i]) + round_bf16(from[i]));
  }
}

PEAL_CLONES void multiply(const float* from, float factor, float* to, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) to[i] = factor * from[i];
}

PEAL_CLONES bool all_finite(const std::uint16_t* half, std::size_t n) {
  constexpr std::uint16_t kExponent = 0x7c00;
  std::uint16_t bad = 0;
  for (std::size_t i = 0; i < n; ++i) bad |= (half[i] & kExponent) == kExponent ? 1 : 0;
  return bad == 0;
}

// rounded[i] = the f16 nearest to scale * from[i]; n <= kSome.
void scale_and_round(float scale, const float* from, float* rounded, std::size_t n) {
  std::uint16_t half[kSome];
  multiply(from, scale, rounded, n);
  narrow_f16(rounded, half, n);
  widen_f16(half, rounded, n);
}

template <typename Work>
void some_at_a_time(std::size_t n, Work work) {
  for (std::size_t at = 0; at < n; at += kSome) work(at, std::min(kSome, n - at));
}

}  // namespace

PEAL_CLONES void add_f32(const float* from, float* into, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) into[i] += from[i];
}

void narrow(const Wire& wire, const float* from, std::uint16_t* to, std::size_t n) {
  if (wire.dtype == DType::bf16) return narrow_bf16(from, to, n);
  some_at_a_time(n, [&](std::size_t at, std::size_t some) {
    float scaled[kSome];
    multiply(from + at, wire.scale, scaled, some);
    narrow_f16(scaled, to + at, some);
  });
}

bool widen(const Wire& wire, const std::uint16_t* from, float* to, std::size_t n) {
  if (wire.dtype == DType::bf16) {
    widen_bf16(from, to, n);
    return true;
  }
  bool finite = true;
  some_at_a_time(n, [&](std::size_t at, std::size_t some) {
    finite &= all_finite(from + at, some);
    widen_f16(from + at, to + at, some);
    multiply(to + at, 1 / wire.scale, to + at, some);
  });
  return finite;
}

void add_rounded(const Wire& wire, const float* from, float* into, std::size_t n) {
  if (wire.dtype == DType::bf16) return add_rounded_bf16(from, into, n);
  some_at_a_time(n, [&](std::size_t at, std::size_t some) {
    float sum[kSome], other[kSome];
    scale_and_round(wire.scale, into + at, sum, some);
    scale_and_round(wire.scale, from + at, other, some);
    add_f32(other, sum, some);
    scale_and_round(1, sum, sum, some);
    multiply(sum, 1 / wire.scale, into + at, some);
  });
}

}  // namespace peal
