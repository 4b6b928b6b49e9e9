// y = x with its axes in another order, and perhaps of another type. For .cu files alone.
#pragma once

#include <algorithm>

#include "core/kernels/cuda/elementary.cuh"
#include "core/kernels/cuda/walk_kernel.cuh"

namespace peal::cuda {

constexpr int kTransposeTile = 32;

// y[r*y_step + c] = x[r + c*x_step]
struct Plane {
  std::uint32_t rows, columns;
  std::int64_t x_step, y_step;
  Division row_tiles, column_tiles;
};

// One tile of a plane; `planes` finds the first element of each. Both sides are read and written
// along their rows: a tile is turned in shared memory, where the odd width keeps a column's
// elements in different banks.
template <typename From, typename To>
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(Walk planes, Plane plane, const From* x, To* y) {
  __shared__ float tile[kTransposeTile][kTransposeTile + 1];
  constexpr int kStep = kThreads / kTransposeTile;
  const std::uint32_t column_tile = plane.row_tiles.quotient(blockIdx.x);
  const std::uint32_t number = plane.column_tiles.quotient(column_tile);
  const std::uint32_t r0 = (blockIdx.x - column_tile * plane.row_tiles.divisor) * kTransposeTile;
  const std::uint32_t c0 = (column_tile - number * plane.column_tiles.divisor) * kTransposeTile;
  std::int64_t at[2];
  planes.find(number, at);
  const std::uint32_t lane = threadIdx.x % kTransposeTile, first = threadIdx.x / kTransposeTile;
#pragma unroll
  for (int k = 0; k < kTransposeTile; k += kStep) {
    const std::uint32_t r = r0 + lane, c = c0 + first + k;
    if (r < plane.rows && c < plane.columns) {
      tile[first + k][lane] = widen(x[at[0] + r + c * plane.x_step]);
    }
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kTransposeTile; k += kStep) {
    const std::uint32_t r = r0 + first + k, c = c0 + lane;
    if (r < plane.rows && c < plane.columns) {
      y[at[1] + r * plane.y_step + c] = rounded<To>(tile[lane][first + k]);
    }
  }
}

// The axis along which x is contiguous; rank() when there is none.
inline std::size_t contiguous_in_x(const Nest& nest) {
  std::size_t axis = 0;
  while (axis < nest.rank() && nest[axis].steps[0] != 1) ++axis;
  return axis;
}

// Whether tiles are worth it for the axis that is x's innermost and the one that is y's: of a thin
// plane (RGB pixels) they would be mostly empty, and its elements meet in the cache anyway.
inline bool tiled(const Nest& nest, const Nest::Axis& column, const Nest::Axis& row) {
  constexpr std::int64_t kThin = 8;
  std::int64_t planes = 1;
  for (std::size_t a = 0; a < nest.rank(); ++a) planes *= nest[a].size;
  const std::int64_t tiles =
      ceil_div(column.size, kTransposeTile) * ceil_div(row.size, kTransposeTile) * planes;
  return std::min(column.size, row.size) >= kThin && tiles < kMostPositions;
}

template <typename From, typename To>
void transpose_tiles(const Stream& s, const Nest& planes, const Nest::Axis& column,
                     const Nest::Axis& row, const From* x, To* y) {
  const auto row_tiles = static_cast<std::uint32_t>(ceil_div(column.size, kTransposeTile));
  const auto column_tiles = static_cast<std::uint32_t>(ceil_div(row.size, kTransposeTile));
  const Plane plane{.rows = static_cast<std::uint32_t>(column.size),
                    .columns = static_cast<std::uint32_t>(row.size),
                    .x_step = row.steps[0],
                    .y_step = column.steps[1],
                    .row_tiles = Division::by(row_tiles),
                    .column_tiles = Division::by(column_tiles)};
  const OnStream on(s);
  for_parts(planes, 1, [&](const Walk& walk, const Steps& start) {
    const std::uint32_t tiles = row_tiles * column_tiles * walk.positions;
    transpose_kernel<<<tiles, kThreads, 0, on.stream>>>(walk, plane, x + start[0], y + start[1]);
    check_launch("transpose");
  });
}

// Along the nest of y in row-major order, whose operands are x and y.
template <typename From, typename To>
void permute(const Stream& s, const char* name, const Nest& nest, const From* x, To* y) {
  const std::size_t along_x = contiguous_in_x(nest);
  if (along_x + 1 < nest.rank()) {  // not y's innermost axis
    Nest planes = nest;
    const Nest::Axis row = planes.pop(), column = planes.take(along_x);
    if (tiled(planes, column, row)) return transpose_tiles(s, planes, column, row, x, y);
  }
  for_nest<1, From, To>(s, name, nest, {x}, y, CopyElement{});
}

}  // namespace peal::cuda
