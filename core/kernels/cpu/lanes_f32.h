// Products of vectors in f32, where f64 (lanes.h) would take longer than reading them: 2 * 16
// running sums, then a tree, then what is left. The order depends on the length only.
#pragma once

#include <cstdint>
#include <cstring>

#include "core/kernels/cpu/lanes.h"

namespace peal::cpu {

using Float16 = float __attribute__((vector_size(64)));

PEAL_INLINE void add_products(const float* x, const float* y, Float16& sums) {
  Float16 a, b;
  std::memcpy(&a, x, sizeof a);
  std::memcpy(&b, y, sizeof b);
  sums += a * b;
}

PEAL_INLINE float total(const Float16& v) {
  Float4 part[4];
  std::memcpy(part, &v, sizeof v);
  const Float4 sum = (part[0] + part[2]) + (part[1] + part[3]);
  return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

PEAL_INLINE float dot_f32(const float* x, const float* y, std::int64_t n) {
  Float16 even{}, odd{};
  std::int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    add_products(x + i, y + i, even);
    add_products(x + i + 16, y + i + 16, odd);
  }
  float sum = total(even + odd);
  for (; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace peal::cpu
