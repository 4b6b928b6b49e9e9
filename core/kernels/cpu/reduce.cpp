#include <algorithm>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/cpu/pieces.h"
#include "core/kernels/nest.h"

namespace peal::cpu {
namespace {

// A tensor's axes, sorted: one operand, x; those that stay and those that are summed over.
struct Axes {
  Nest kept;     // operands x, y
  Nest reduced;  // operand x
};

// sums[i] += the sum of row i, rows being `step` elements apart
PEAL_CLONES void add_rows(const float* x, std::int64_t step, std::int64_t columns, double* sums,
                          std::int64_t rows) {
  for (std::int64_t i = 0; i < rows; ++i) sums[i] += sum_lanes(x + i * step, columns);
}

PEAL_CLONES void add_columns(const float* x, double* sums, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(x[i]);
}

void scale_sums(const double* sums, double factor, float* y, std::int64_t step, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i * step] = static_cast<float>(sums[i] * factor);
}

// The innermost kept axis, a tile at a time, beside the sums of its elements. x is read in the
// order of memory; add(at, sums, n) adds what belongs to one position of the outer reduced axes.
template <class Add>
void reduce_tiles(const Axes& axes, const Nest::Axis& inner, double factor, float* y, Add add) {
  constexpr std::int64_t kTile = 512;
  double sums[kTile];
  axes.kept.for_each([&](const Steps& at) {
    for (std::int64_t first = 0; first < inner.size; first += kTile) {
      const std::int64_t n = inner.size - first < kTile ? inner.size - first : kTile;
      std::fill_n(sums, n, 0.0);
      const std::int64_t from = at[0] + first * inner.steps[0];
      axes.reduced.for_each([&](const Steps& in) { add(from + in[0], sums, n); });
      scale_sums(sums, factor, y + at[1] + first * inner.steps[1], inner.steps[1], n);
    }
  });
}

}  // namespace

void CpuKernels::reduce_sum(Stream&, const Tensor& x, float factor, Tensor y) {
  const int rank = x.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Axes axes;
  bool rows = false;  // the innermost axis is summed over
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    const std::int64_t size = x.shape[static_cast<int>(i)];
    if (size == 1) continue;
    rows = y.shape[static_cast<int>(i)] == 1;
    if (rows) {
      axes.reduced.add(size, {x_strides[i], 0, 0});
    } else {
      axes.kept.add(size, {x_strides[i], y_strides[i], 0});
    }
  }
  const std::int64_t columns = rows ? axes.reduced.pop().size : 1;
  const Nest::Axis inner = axes.kept.pop();
  float* to = y.as<float>();
  if (!rows) {
    reduce_tiles(axes, inner, factor, to, [&](std::int64_t at, double* sums, std::int64_t n) {
      add_columns(Reads(x, at, n), sums, n);
    });
  } else if (x.dtype == DType::f32) {
    reduce_tiles(axes, inner, factor, to, [&](std::int64_t at, double* sums, std::int64_t n) {
      add_rows(x.as<float>() + at, inner.steps[0], columns, sums, n);
    });
  } else {
    reduce_tiles(axes, inner, factor, to, [&](std::int64_t at, double* sums, std::int64_t n) {
      for (std::int64_t i = 0; i < n; ++i) {
        for_pieces(x.dtype, columns, [&](std::int64_t first, std::int64_t count) {
          add_rows(Reads(x, at + i * inner.steps[0] + first, count), 0, count, sums + i, 1);
        });
      }
    });
  }
}

}  // namespace peal::cpu
