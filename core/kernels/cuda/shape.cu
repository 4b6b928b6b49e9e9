// Kernels that move elements; broadcast scales them as well. Each element is read and written once.
#include <algorithm>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/elementary.cuh"
#include "core/kernels/cuda/walk_kernel.cuh"

namespace peal::cuda {
namespace {

constexpr int kTile = 32;

// y[r*y_step + c] = x[r + c*x_step]
struct Plane {
  std::uint32_t rows, columns;
  std::int64_t x_step, y_step;
  Division row_tiles, column_tiles;
};

// One tile of a plane; `planes` finds the first element of each. Both sides are read and written
// along their rows: a tile is turned in shared memory, where the odd width keeps a column's
// elements in different banks.
__global__ void __launch_bounds__(kThreads)
    transpose_kernel(Walk planes, Plane plane, const float* x, float* y) {
  __shared__ float tile[kTile][kTile + 1];
  constexpr int kStep = kThreads / kTile;
  const std::uint32_t column_tile = plane.row_tiles.quotient(blockIdx.x);
  const std::uint32_t number = plane.column_tiles.quotient(column_tile);
  const std::uint32_t r0 = (blockIdx.x - column_tile * plane.row_tiles.divisor) * kTile;
  const std::uint32_t c0 = (column_tile - number * plane.column_tiles.divisor) * kTile;
  std::int64_t at[2];
  planes.find(number, at);
  const std::uint32_t lane = threadIdx.x % kTile, first = threadIdx.x / kTile;
#pragma unroll
  for (int k = 0; k < kTile; k += kStep) {
    const std::uint32_t r = r0 + lane, c = c0 + first + k;
    if (r < plane.rows && c < plane.columns) {
      tile[first + k][lane] = x[at[0] + r + c * plane.x_step];
    }
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kTile; k += kStep) {
    const std::uint32_t r = r0 + first + k, c = c0 + lane;
    if (r < plane.rows && c < plane.columns) {
      y[at[1] + r * plane.y_step + c] = tile[lane][first + k];
    }
  }
}

// The axis along which x is contiguous; rank() when there is none.
std::size_t contiguous_in_x(const Nest& nest) {
  std::size_t axis = 0;
  while (axis < nest.rank() && nest[axis].steps[0] != 1) ++axis;
  return axis;
}

// Whether tiles are worth it for the axis that is x's innermost and the one that is y's: of a thin
// plane (RGB pixels) they would be mostly empty, and its elements meet in the cache anyway.
bool tiled(const Nest& nest, const Nest::Axis& column, const Nest::Axis& row) {
  constexpr std::int64_t kThin = 8;
  std::int64_t planes = 1;
  for (std::size_t a = 0; a < nest.rank(); ++a) planes *= nest[a].size;
  const std::int64_t tiles = ceil_div(column.size, kTile) * ceil_div(row.size, kTile) * planes;
  return std::min(column.size, row.size) >= kThin && tiles < kMostPositions;
}

void transpose_tiles(Stream& s, const Nest& planes, const Nest::Axis& column, const Nest::Axis& row,
                     const float* x, float* y) {
  const auto row_tiles = static_cast<std::uint32_t>(ceil_div(column.size, kTile));
  const auto column_tiles = static_cast<std::uint32_t>(ceil_div(row.size, kTile));
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

}  // namespace

void CudaKernels::transpose(Stream& s, const Tensor& x, std::span<const int> perm, Tensor y) {
  const int rank = x.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Nest nest;  // over y in row-major order; operands x, y
  for (std::size_t i = 0; i < perm.size(); ++i) {
    const auto axis = static_cast<std::size_t>(perm[i]);
    nest.add(y.shape[static_cast<int>(i)], {x_strides[axis], y_strides[i], 0});
  }
  const std::size_t along_x = contiguous_in_x(nest);
  if (along_x + 1 < nest.rank()) {  // not y's innermost axis
    Nest planes = nest;
    const Nest::Axis row = planes.pop(), column = planes.take(along_x);
    if (tiled(planes, column, row)) {
      return transpose_tiles(s, planes, column, row, x.as<float>(), y.as<float>());
    }
  }
  for_nest<1>(s, "transpose", nest, {x.as<float>()}, y.as<float>(), CopyElement{});
}

void CudaKernels::copy_box(Stream& s, const Tensor& x, std::span<const std::int64_t> x_start,
                           Tensor y, std::span<const std::int64_t> y_start, const Shape& extent) {
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
  for_nest<1>(s, "copy_box", nest, {from}, to, CopyElement{});
}

void CudaKernels::broadcast(Stream& s, const Tensor& x, float factor, Tensor y) {
  const int rank = y.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Nest nest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    nest.add(y.shape[static_cast<int>(i)], {x_strides[i], y_strides[i], 0});
  }
  for_nest<1>(s, "broadcast", nest, {x.as<float>()}, y.as<float>(), ScaleElement{factor});
}

}  // namespace peal::cuda
