// Sums in a fixed order: 16 running sums in f64, then a tree. The order depends on the length only,
// neither on alignment nor on the instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/kernels/cpu/clones.h"

namespace peal::cpu {

using Float8 = float __attribute__((vector_size(32)));
using Double8 = double __attribute__((vector_size(64)));

struct Lanes {
  Double8 half[2] = {};

  PEAL_INLINE double total() const {
    const Double8 v = half[0] + half[1];
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
  }
};

PEAL_INLINE void load_lanes(const float* x, Lanes& out) {
  Float8 low, high;
  std::memcpy(&low, x, sizeof low);
  std::memcpy(&high, x + 8, sizeof high);
  out.half[0] = __builtin_convertvector(low, Double8);
  out.half[1] = __builtin_convertvector(high, Double8);
}

PEAL_INLINE void load_lanes(const float* x, std::int64_t n, Lanes& out) {
  float padded[16] = {};
  for (std::int64_t i = 0; i < n; ++i) padded[i] = x[i];
  load_lanes(padded, out);
}

// f(a, b) for 16 elements of x and y at a time; the last ones are filled up with zeros, which f
// must add nothing for.
template <class F>
PEAL_INLINE void for_lanes(const float* x, const float* y, std::int64_t n, F f) {
  Lanes a, b;
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    load_lanes(x + i, a);
    load_lanes(y + i, b);
    f(a, b);
  }
  if (i == n) return;
  load_lanes(x + i, n - i, a);
  load_lanes(y + i, n - i, b);
  f(a, b);
}

template <class F>
PEAL_INLINE void for_lanes(const float* x, std::int64_t n, F f) {
  Lanes a;
  std::int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    load_lanes(x + i, a);
    f(a);
  }
  if (i == n) return;
  load_lanes(x + i, n - i, a);
  f(a);
}

}  // namespace peal::cpu
