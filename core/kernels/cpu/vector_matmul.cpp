// A vector times a matrix, which takes as long as reading the matrix. It is read in the order in
// which it lies: of several rows at a time one core reads up to a third less in a second.
#include "core/kernels/cpu/vector_matmul.h"

#include <algorithm>
#include <cstring>

#include "core/base/clones.h"
#include "core/kernels/cpu/lanes_f32.h"

namespace peal::cpu {
namespace {

// c (n) = a (k) b (k, n) + bias: each element over the rows of b in their order.
PEAL_CLONES void by_rows(const float* __restrict a, const float* __restrict b, const float* bias,
                         std::int64_t k, std::int64_t n, float* __restrict c) {
  if (bias != nullptr) {
    std::copy_n(bias, n, c);
  } else {
    std::fill_n(c, n, 0.0f);
  }
  for (std::int64_t r = 0; r < k; ++r) {
    const float x = a[r], *row = b + r * n;
    std::int64_t j = 0;
    for (; j + 16 <= n; j += 16) {  // narrower ones, which compilers like, are slower
      Float16 from, sum;
      std::memcpy(&from, row + j, sizeof from);
      std::memcpy(&sum, c + j, sizeof sum);
      sum += x * from;
      std::memcpy(c + j, &sum, sizeof sum);
    }
    for (; j < n; ++j) c[j] += x * row[j];
  }
}

// c (n) = b (n, k) a (k) + bias
PEAL_CLONES void by_columns(const float* a, const float* b, const float* bias, std::int64_t k,
                            std::int64_t n, float* c) {
  for (std::int64_t r = 0; r < n; ++r) {
    const float sum = dot_f32(a, b + r * k, k);
    c[r] = bias != nullptr ? sum + bias[r] : sum;
  }
}

}  // namespace

void VectorMatmul::run(Stream&, const Operands& of, Tensor) {
  const auto product = spec_.transpose_b ? by_columns : by_rows;
  auto* const c = of.c.as<float>();
  product(of.a.as<float>(), of.b.as<float>(), spec_.bias ? of.bias.as<float>() : nullptr, spec_.k,
          spec_.n, c);
  // Last, as each of k sums would round what is as large as the addend.
  for (std::int64_t j = 0; spec_.addend && j < spec_.n; ++j) c[j] += of.addend.as<float>()[j];
}

}  // namespace peal::cpu
