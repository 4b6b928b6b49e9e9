#include "core/kernels/cpu/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/cpu/nest.h"

namespace peal::cpu {
namespace {

// A tensor's axes, sorted: one operand, x; those that stay and those that are summed over.
struct Axes {
  Nest kept;     // operands x, y
  Nest reduced;  // operand x
};

PEAL_CLONES double sum_row(const float* x, std::int64_t n) {
  Lanes sum;
  for_lanes(x, n, [&](const Lanes& v) {
    sum.half[0] += v.half[0];
    sum.half[1] += v.half[1];
  });
  return sum.total();
}

PEAL_CLONES void add_columns(const float* x, double* sums, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) sums[i] += static_cast<double>(x[i]);
}

PEAL_CLONES void scale_sums(const double* sums, double factor, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(sums[i] * factor);
}

// The innermost axis is summed over.
void reduce_rows(const Axes& axes, std::int64_t row, const float* x, double factor, float* y) {
  axes.kept.for_each([&](const Steps& at) {
    double sum = 0;
    axes.reduced.for_each([&](const Steps& in) { sum += sum_row(x + at[0] + in[0], row); });
    y[at[1]] = static_cast<float>(sum * factor);
  });
}

// The innermost axis stays: sums for a tile of columns at a time, rows in order.
void reduce_columns(const Axes& axes, std::int64_t columns, const float* x, double factor,
                    float* y) {
  constexpr std::int64_t kTile = 512;
  double sums[kTile];
  axes.kept.for_each([&](const Steps& at) {
    for (std::int64_t c = 0; c < columns; c += kTile) {
      const std::int64_t n = columns - c < kTile ? columns - c : kTile;
      for (std::int64_t i = 0; i < n; ++i) sums[i] = 0;
      axes.reduced.for_each([&](const Steps& in) { add_columns(x + at[0] + in[0] + c, sums, n); });
      scale_sums(sums, factor, y + at[1] + c, n);
    }
  });
}

}  // namespace

void CpuKernels::reduce_sum(Stream&, const Tensor& x, float factor, Tensor y) {
  const int rank = x.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Axes axes;
  bool inner_reduced = false;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    const std::int64_t size = x.shape[static_cast<int>(i)];
    if (size == 1) continue;
    inner_reduced = y.shape[static_cast<int>(i)] == 1;
    if (inner_reduced) {
      axes.reduced.add(size, {x_strides[i], 0, 0});
    } else {
      axes.kept.add(size, {x_strides[i], y_strides[i], 0});
    }
  }
  if (inner_reduced) {
    const std::int64_t row = axes.reduced.pop().size;
    reduce_rows(axes, row, x.as<float>(), factor, y.as<float>());
  } else {
    const std::int64_t columns = axes.kept.pop().size;
    reduce_columns(axes, columns, x.as<float>(), factor, y.as<float>());
  }
}

}  // namespace peal::cpu
