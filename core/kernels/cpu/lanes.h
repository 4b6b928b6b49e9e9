// Sums in a fixed order: 16 running sums in f64, then a tree. The order depends on the length only,
// neither on alignment nor on the instruction set.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/base/clones.h"

namespace peal::cpu {

using Float4 = float __attribute__((vector_size(16)));
using Double4 = double __attribute__((vector_size(32)));

// Lane i of 16 is part[i / 4][i % 4].
struct Lanes {
  static constexpr int kParts = 4;
  Double4 part[kParts] = {};

  PEAL_INLINE double total() const {
    const Double4 v = (part[0] + part[2]) + (part[1] + part[3]);
    return (v[0] + v[2]) + (v[1] + v[3]);
  }
};

PEAL_INLINE void load_lanes(const float* x, Lanes& out) {
  for (int k = 0; k < Lanes::kParts; ++k) {
    Float4 values;
    std::memcpy(&values, x + 4 * k, sizeof values);
    out.part[k] = __builtin_convertvector(values, Double4);
  }
}

// The first n < 16, 0 for the others; copied by powers of two, which costs no loop.
PEAL_INLINE void load_lanes(const float* x, std::int64_t n, Lanes& out) {
  float padded[16] = {};
  std::int64_t at = 0;
  if (n & 8) std::memcpy(padded, x, 8 * sizeof(float)), at += 8;
  if (n & 4) std::memcpy(padded + at, x + at, 4 * sizeof(float)), at += 4;
  if (n & 2) std::memcpy(padded + at, x + at, 2 * sizeof(float)), at += 2;
  if (n & 1) padded[at] = x[at];
  load_lanes(padded, out);
}

PEAL_INLINE void add_lanes(const Lanes& v, Lanes& sum) {
  for (int k = 0; k < Lanes::kParts; ++k) sum.part[k] += v.part[k];
}

PEAL_INLINE void add_products(const Lanes& a, const Lanes& b, Lanes& sum) {
  for (int k = 0; k < Lanes::kParts; ++k) sum.part[k] += a.part[k] * b.part[k];
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

PEAL_INLINE double sum_lanes(const float* x, std::int64_t n) {
  Lanes sum;
  for_lanes(x, n, [&](const Lanes& v) { add_lanes(v, sum); });
  return sum.total();
}

}  // namespace peal::cpu
