// Products of a large matrix with thin ones: bound by reading the large one, which oneDNN's matrix
// product would pack first. Up to four of the K vectors are at work in one pass.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/clones.h"
#include "core/base/random.h"
#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {
namespace {

using Float16 = float __attribute__((vector_size(64)));

constexpr std::int64_t kWidth = 16;
constexpr int kGroup = 4;  // vectors of one pass

PEAL_INLINE void load(const float* x, std::int64_t n, Float16& to) {
  if (n >= kWidth) {
    std::memcpy(&to, x, sizeof to);
    return;
  }
  to = Float16{};
  for (std::int64_t i = 0; i < n; ++i) to[i] = x[i];
}

PEAL_INLINE void store(const Float16& x, float* to, std::int64_t n) {
  if (n >= kWidth) {
    std::memcpy(to, &x, sizeof x);
    return;
  }
  for (std::int64_t i = 0; i < n; ++i) to[i] = x[i];
}

// Halves added up: the same order for every instruction set.
PEAL_INLINE float total(const Float16& x) {
  float part[kWidth];
  std::memcpy(part, &x, sizeof x);
  for (int half = kWidth / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) part[i] += part[i + half];
  }
  return part[0];
}

// p[k] = row . q[k] for k < n, q[k] being `columns` long.
template <int n>
PEAL_INLINE void dot_rows(const float* row, const float* q, std::int64_t columns, float* p) {
  Float16 sum[n] = {};
  for (std::int64_t c = 0; c < columns; c += kWidth) {
    Float16 m, v;
    load(row + c, columns - c, m);
    for (int k = 0; k < n; ++k) {
      load(q + k * columns + c, columns - c, v);
      sum[k] += m * v;
    }
  }
  for (int k = 0; k < n; ++k) p[k] = total(sum[k]);
}

PEAL_CLONES void project(const float* g, const float* q, float* m, float* p, std::int64_t rows,
                         std::int64_t columns, std::int64_t rank) {
  for (std::int64_t r = 0; r < rows; ++r, g += columns, m += columns, p += rank) {
    PEAL_ELEMENTWISE
    for (std::int64_t c = 0; c < columns; ++c) m[c] += g[c];
    std::int64_t k = 0;
    for (; k + kGroup <= rank; k += kGroup) dot_rows<kGroup>(m, q + k * columns, columns, p + k);
    for (; k < rank; ++k) dot_rows<1>(m, q + k * columns, columns, p + k);
  }
}

// q[k] += sum of p[r][k] * m[r] over `rows` rows, which are added one after the other.
template <int n, int rows>
PEAL_INLINE void add_rows(const float* m, const float* p, std::int64_t rank, std::int64_t columns,
                          float* q) {
  for (std::int64_t c = 0; c < columns; c += kWidth) {
    Float16 sum[n], v;
    for (int k = 0; k < n; ++k) load(q + k * columns + c, columns - c, sum[k]);
    for (int r = 0; r < rows; ++r) {
      load(m + r * columns + c, columns - c, v);
      for (int k = 0; k < n; ++k) sum[k] += p[r * rank + k] * v;
    }
    for (int k = 0; k < n; ++k) store(sum[k], q + k * columns + c, columns - c);
  }
}

template <int rows>
PEAL_INLINE void add_block(const float* m, const float* p, std::int64_t rank, std::int64_t columns,
                           float* q) {
  std::int64_t k = 0;
  for (; k + kGroup <= rank; k += kGroup) {
    add_rows<kGroup, rows>(m, p + k, rank, columns, q + k * columns);
  }
  for (; k < rank; ++k) add_rows<1, rows>(m, p + k, rank, columns, q + k * columns);
}

PEAL_CLONES void project_back(const float* m, const float* p, float* q, std::int64_t rows,
                              std::int64_t columns, std::int64_t rank) {
  constexpr int kRows = 8;
  std::int64_t r = 0;
  for (; r + kRows <= rows; r += kRows) {
    add_block<kRows>(m + r * columns, p + r * rank, rank, columns, q);
  }
  for (; r < rows; ++r) add_block<1>(m + r * columns, p + r * rank, rank, columns, q);
}

// y = sum of p[k] * q[k] in the order of k.
PEAL_CLONES void expand_row(const float* p, const float* q, float* y, std::int64_t columns,
                            std::int64_t rank) {
  for (std::int64_t c = 0; c < columns; c += kWidth) {
    Float16 sum = {}, v;
    for (std::int64_t k = 0; k < rank; ++k) {
      load(q + k * columns + c, columns - c, v);
      sum += p[k] * v;
    }
    store(sum, y + c, columns - c);
  }
}

PEAL_CLONES void subtract(float factor, const float* y, float* m, std::int64_t n) {
  PEAL_ELEMENTWISE
  for (std::int64_t i = 0; i < n; ++i) m[i] -= factor * y[i];
}

// Column k of p, (rows, rank): what Gram-Schmidt does with it.
struct Column {
  float* p;
  std::int64_t rows, rank;

  double dot(std::int64_t j, std::int64_t k) const {
    double sum = 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      sum += static_cast<double>(p[r * rank + j]) * p[r * rank + k];
    }
    return sum;
  }
  // Takes the columns before k out of column k; returns what part of its length is left.
  double reduce(std::int64_t k) const {
    const double before = std::sqrt(dot(k, k));
    for (std::int64_t j = 0; j < k; ++j) {
      const double along = dot(j, k);
      for (std::int64_t r = 0; r < rows; ++r) {
        p[r * rank + k] = static_cast<float>(p[r * rank + k] - along * p[r * rank + j]);
      }
    }
    const double after = std::sqrt(dot(k, k));
    if (before == 0) return 0;
    for (std::int64_t r = 0; r < rows; ++r) {
      p[r * rank + k] = static_cast<float>(p[r * rank + k] / after);
    }
    return after / before;
  }
  void draw(RandomKey key, std::int64_t k) const {
    key.stream = static_cast<std::uint64_t>(k);
    const Random random(key);
    for (std::int64_t r = 0; r < rows; ++r) {
      p[r * rank + k] = static_cast<float>(random.normal(static_cast<std::uint64_t>(r)));
    }
  }
};

}  // namespace

void CpuKernels::low_rank_project(Stream&, const Tensor& g, const Tensor& q, Tensor m, Tensor p) {
  project(g.as<float>(), q.as<float>(), m.as<float>(), p.as<float>(), p.shape[0], q.shape[1],
          q.shape[0]);
}

void CpuKernels::low_rank_project_back(Stream&, const Tensor& m, const Tensor& p, Tensor q) {
  std::fill_n(q.as<float>(), q.numel(), 0.0f);
  project_back(m.as<float>(), p.as<float>(), q.as<float>(), p.shape[0], q.shape[1], q.shape[0]);
}

void CpuKernels::low_rank_expand(Stream&, const Tensor& p, const Tensor& q, Tensor y) {
  const std::int64_t columns = q.shape[1], rank = q.shape[0];
  for (std::int64_t r = 0; r < p.shape[0]; ++r) {
    expand_row(p.as<float>() + r * rank, q.as<float>(), y.as<float>() + r * columns, columns, rank);
  }
}

void CpuKernels::subtract_scaled(Stream&, float factor, const Tensor& y, Tensor m) {
  subtract(factor, y.as<float>(), m.as<float>(), m.numel());
}

void CpuKernels::orthonormalize(Stream&, const RandomKey& key, Tensor p) {
  // Of a column that depends on others, rounding leaves some 1e-7 of its length.
  constexpr double kDependent = 1e-5;
  const Column columns{p.as<float>(), p.shape[0], p.shape[1]};
  for (std::int64_t k = 0; k < columns.rank; ++k) {
    if (columns.reduce(k) < kDependent) {
      columns.draw(key, k);
      columns.reduce(k);
    }
    columns.reduce(k);  // what rounding has left along the others
  }
}

}  // namespace peal::cpu
