// Kernels that move elements and compute nothing.
#include <algorithm>
#include <cstring>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/nest.h"

namespace peal::cpu {
namespace {

void copy_row(const float* x, std::int64_t x_step, float* y, std::int64_t y_step, std::int64_t n) {
  if (x_step == 1 && y_step == 1) {
    std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  for (std::int64_t i = 0; i < n; ++i) y[i * y_step] = x[i * x_step];
}

using Float4 = float __attribute__((vector_size(16)));

// y[r*y_step + c] = x[r + c*x_step] for r, c < 4
void transpose_4x4(const float* x, std::int64_t x_step, float* y, std::int64_t y_step) {
  Float4 a, b, c, d;
  std::memcpy(&a, x, sizeof a);
  std::memcpy(&b, x + x_step, sizeof b);
  std::memcpy(&c, x + 2 * x_step, sizeof c);
  std::memcpy(&d, x + 3 * x_step, sizeof d);
  const Float4 ac_low = __builtin_shufflevector(a, c, 0, 4, 1, 5);
  const Float4 ac_high = __builtin_shufflevector(a, c, 2, 6, 3, 7);
  const Float4 bd_low = __builtin_shufflevector(b, d, 0, 4, 1, 5);
  const Float4 bd_high = __builtin_shufflevector(b, d, 2, 6, 3, 7);
  const Float4 rows[4] = {__builtin_shufflevector(ac_low, bd_low, 0, 4, 1, 5),
                          __builtin_shufflevector(ac_low, bd_low, 2, 6, 3, 7),
                          __builtin_shufflevector(ac_high, bd_high, 0, 4, 1, 5),
                          __builtin_shufflevector(ac_high, bd_high, 2, 6, 3, 7)};
  for (int r = 0; r < 4; ++r) std::memcpy(y + r * y_step, &rows[r], sizeof rows[r]);
}

struct Plane {
  const float* x;
  std::int64_t x_step;
  float* y;
  std::int64_t y_step;
};

// Rows r0 .. r1 - 1 and columns c0 .. c1 - 1 of y[r*y_step + c] = x[r + c*x_step].
void transpose_tile(const Plane& p, std::int64_t r0, std::int64_t r1, std::int64_t c0,
                    std::int64_t c1) {
  const std::int64_t r4 = r0 + (r1 - r0) / 4 * 4, c4 = c0 + (c1 - c0) / 4 * 4;
  for (std::int64_t r = r0; r < r4; r += 4) {
    for (std::int64_t c = c0; c < c4; c += 4) {
      transpose_4x4(p.x + r + c * p.x_step, p.x_step, p.y + r * p.y_step + c, p.y_step);
    }
  }
  for (std::int64_t r = r0; r < r1; ++r) {
    for (std::int64_t c = r < r4 ? c4 : c0; c < c1; ++c) {
      p.y[r * p.y_step + c] = p.x[r + c * p.x_step];
    }
  }
}

// Squares that stay in the L1 cache.
void transpose_plane(const Plane& plane, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t kTile = 16;  // a cache line of floats
  for (std::int64_t r = 0; r < rows; r += kTile) {
    for (std::int64_t c = 0; c < columns; c += kTile) {
      transpose_tile(plane, r, std::min(r + kTile, rows), c, std::min(c + kTile, columns));
    }
  }
}

// The axis along which x is contiguous; rank() when there is none.
std::size_t contiguous_in_x(const Nest& nest) {
  std::size_t axis = 0;
  while (axis < nest.rank() && nest[axis].steps[0] != 1) ++axis;
  return axis;
}

}  // namespace

void CpuKernels::transpose(Stream&, const Tensor& x, std::span<const int> perm, Tensor y) {
  const int rank = x.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Nest nest;  // over y in row-major order; operands x, y
  for (std::size_t i = 0; i < perm.size(); ++i) {
    const auto axis = static_cast<std::size_t>(perm[i]);
    nest.add(y.shape[static_cast<int>(i)], {x_strides[axis], y_strides[i], 0});
  }
  const Nest::Axis row = nest.pop();
  const std::size_t plane = row.steps[0] == 1 ? nest.rank() : contiguous_in_x(nest);
  if (plane == nest.rank()) {
    nest.for_each([&](const Steps& at) {
      copy_row(x.as<float>() + at[0], row.steps[0], y.as<float>() + at[1], row.steps[1], row.size);
    });
    return;
  }
  const Nest::Axis column = nest.take(plane);
  nest.for_each([&](const Steps& at) {
    transpose_plane({x.as<float>() + at[0], row.steps[0], y.as<float>() + at[1], column.steps[1]},
                    column.size, row.size);
  });
}

void CpuKernels::copy_box(Stream&, const Tensor& x, std::span<const std::int64_t> x_start, Tensor y,
                          std::span<const std::int64_t> y_start, const Shape& extent) {
  const int rank = extent.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  const float* from = x.as<float>();
  float* to = y.as<float>();
  Nest nest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    from += x_start[i] * x_strides[i];
    to += y_start[i] * y_strides[i];
    nest.add(extent[static_cast<int>(i)], {x_strides[i], y_strides[i], 0});
  }
  const Nest::Axis row = nest.pop();
  nest.for_each([&](const Steps& at) {
    copy_row(from + at[0], row.steps[0], to + at[1], row.steps[1], row.size);
  });
}

}  // namespace peal::cpu
