// reduce_sum reads x once. Where few outputs have much to add up, blocks sum parts of each, which
// wait in the stream's workspace: how many is a matter of the shapes alone.
#include <algorithm>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

// ---- The innermost axis is summed over ------------------------------------------------------

struct Rows {
  Axes kept, outer;    // outer: summed axes around the innermost
  Divider packs;       // of the innermost axis
  std::int64_t items;  // packs of an output
  std::int64_t outputs;
  bool wide;
};

// Items first, first + step, ... before `end` of the output at x.
template <int kWidth, typename T>
__device__ double sum_items(const T* x, const Rows& rows, std::int64_t first, int step,
                            std::int64_t end) {
  constexpr int kAtOnce = kWidth == 1 ? 8 : 4;  // reads under way
  const auto read = [&](std::int64_t i) {
    const std::int64_t row = rows.packs.divide(i);
    const std::int64_t at = rows.outer.offset(row) + (i - row * rows.packs.value()) * kWidth;
    return read_pack<kWidth>(x + at, rows.wide);
  };
  double sum = 0;
  const auto add = [&](const Pack<kWidth>& pack) {
    if constexpr (kWidth == 1) {
      sum += static_cast<double>(pack.of[0]);
    } else {
#pragma unroll
      for (int e = 0; e < kWidth; e += 4) {
        sum += (static_cast<double>(pack.of[e]) + static_cast<double>(pack.of[e + 1])) +
               (static_cast<double>(pack.of[e + 2]) + static_cast<double>(pack.of[e + 3]));
      }
    }
  };
  std::int64_t i = first;
  for (; i + (kAtOnce - 1) * step < end; i += kAtOnce * step) {
    Pack<kWidth> packs[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) packs[k] = read(i + k * step);
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) add(packs[k]);
  }
  for (; i < end; i += step) add(read(i));
  return sum;
}

template <int kWidth, int kGroup, typename T>  // kGroup: threads of an output, a part of a warp
__global__ void __launch_bounds__(kThreads)
    sum_short_rows(const T* x, Rows rows, double factor, float* y) {
  const std::int64_t output =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  double sum = 0;
  if (output < rows.outputs) {
    sum = sum_items<kWidth>(x + rows.kept.offset(output), rows, lane, kGroup, rows.items);
  }
  sum = warp_reduce<kGroup>(sum);
  if (output < rows.outputs && lane == 0) y[output] = static_cast<float>(sum * factor);
}

template <int kWidth, typename T>  // a block for each output
__global__ void __launch_bounds__(kThreads)
    sum_long_rows(const T* x, Rows rows, double factor, float* y) {
  const T* from = x + rows.kept.offset(blockIdx.x);
  const double sum = block_reduce(sum_items<kWidth>(from, rows, threadIdx.x, kThreads, rows.items));
  if (threadIdx.x == 0) y[blockIdx.x] = static_cast<float>(sum * factor);
}

template <int kWidth, typename T>  // block (output, part)
__global__ void __launch_bounds__(kThreads)
    sum_parts_of_rows(const T* x, Rows rows, Divider parts, std::int64_t each, double* sums) {
  const std::int64_t output = parts.divide(blockIdx.x);
  const std::int64_t begin = (blockIdx.x - output * parts.value()) * each;
  const double sum =
      block_reduce(sum_items<kWidth>(x + rows.kept.offset(output), rows, begin + threadIdx.x,
                                     kThreads, min(begin + each, rows.items)));
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// Parts of each output, so that there are enough blocks: 1 where the outputs are, or where parts
// would have fewer than `least` items.
std::int64_t parts_for(std::int64_t outputs, std::int64_t items, std::int64_t least) {
  constexpr std::int64_t kFewOutputs = 512;
  if (outputs > kFewOutputs) return 1;
  return std::clamp<std::int64_t>(items / least, 1, kMostParts / outputs);
}

template <int kWidth, typename T>
void sum_rows(Stream& s, const OnStream& on, const T* x, const Reduction& by, double factor,
              float* y) {
  Rows rows{.kept = by.kept,
            .outer = by.summed,
            .packs = Divider(by.inner / kWidth),
            .items = by.summed.count() * (by.inner / kWidth),
            .outputs = by.kept.count(),
            .wide = aligned(x)};
  const auto launch = [&](auto kernel, std::int64_t outputs_of_block) {
    kernel<<<blocks_for(rows.outputs, outputs_of_block), kThreads, 0, on.stream>>>(x, rows, factor,
                                                                                   y);
  };
  const std::int64_t parts = parts_for(rows.outputs, rows.items, 16 * kThreads);
  if (parts > 1) {
    const std::int64_t each = ceil_div(rows.items, parts);
    double* const sums = parts_of(s);
    sum_parts_of_rows<kWidth><<<blocks_for(rows.outputs * parts, 1), kThreads, 0, on.stream>>>(
        x, rows, Divider(parts), each, sums);
    add_parts(on, sums, rows.outputs, parts, factor, 1, y);
  } else if (rows.items <= 32) {
    launch(sum_short_rows<kWidth, 4, T>, kThreads / 4);
  } else if (rows.items <= 1024) {
    launch(sum_short_rows<kWidth, kWarp, T>, kThreads / kWarp);
  } else {
    launch(sum_long_rows<kWidth, T>, 1);
  }
}

// ---- Outputs lie side by side ---------------------------------------------------------------

struct Columns {
  Axes kept, summed;  // kept: around the innermost axis
  Tile tile;
  Divider tiles;  // along the innermost axis
  std::int64_t width, height;
  std::int64_t parts, rows_each;  // of the height
};

// Of a tile's columns each is kEach elements: two halves, which are read as one word.
template <int kEach, typename T>
__global__ void __launch_bounds__(1024)  // block (tile, part)
    sum_columns(const T* x, Columns by, bool wide, double factor, float* y, double* sums) {
  extern __shared__ double shared[];
  const TileThread me(by.tile);
  const std::int64_t table = by.tiles.divide(blockIdx.x);
  const std::int64_t tile = blockIdx.x - table * by.tiles.value();
  const std::int64_t column = (tile * by.tile.columns + me.column) * kEach;
  const std::int64_t begin = blockIdx.y * by.rows_each;
  const std::int64_t end = min(begin + by.rows_each, by.height);
  double sum[kEach] = {};
  if (column < by.width) {
    const T* from = x + by.kept.offset(table) + column;
    const int step = static_cast<int>(by.tile.rows);
#pragma unroll 8
    for (std::int64_t r = begin + me.row; r < end; r += step) {
      const Pack<kEach> pack = read_pack<kEach>(from + by.summed.offset(r), wide);
#pragma unroll
      for (int e = 0; e < kEach; ++e) sum[e] += static_cast<double>(pack.of[e]);
    }
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) {
    sum[e] = sum_tile(sum[e], by.tile, shared);
    if (me.row != 0 || column >= by.width) continue;
    const std::int64_t output = table * by.width + column + e;
    if (by.parts > 1) {
      sums[output * by.parts + blockIdx.y] = sum[e];
    } else {
      y[output] = static_cast<float>(sum[e] * factor);
    }
  }
}

template <int kEach, typename T>
void sum_columns(Stream& s, const OnStream& on, const T* x, const Reduction& r, double factor,
                 float* y) {
  constexpr std::int64_t kNarrow = 32 / (kEach * static_cast<int>(sizeof(T)));
  const std::int64_t tables = r.kept.count(), height = r.summed.count();
  const std::int64_t columns = r.inner / kEach;
  const Tile tile = Tile::of(height, columns, tables, kNarrow);
  const std::int64_t outputs = tables * r.inner;
  const std::int64_t parts = parts_for(outputs, height, 16 * tile.rows);
  const Columns by{.kept = r.kept,
                   .summed = r.summed,
                   .tile = tile,
                   .tiles = Divider(ceil_div(columns, tile.columns)),
                   .width = r.inner,
                   .height = height,
                   .parts = parts,
                   .rows_each = ceil_div(height, parts)};
  const auto threads = static_cast<unsigned>(tile.threads());
  const dim3 blocks(blocks_for(tables * by.tiles.value(), 1), static_cast<unsigned>(parts));
  double* const sums = parts > 1 ? parts_of(s) : nullptr;
  sum_columns<kEach><<<blocks, threads, threads * sizeof(double), on.stream>>>(x, by, aligned(x),
                                                                               factor, y, sums);
  if (parts > 1) add_parts(on, sums, outputs, parts, factor, 1, y);
}

// ---- Squares --------------------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads)
    sum_squares_kernel(const float* x, std::int64_t n, bool wide, double* sums) {
  constexpr int kPacksEach = Kernels::kNormBlock / (kThreads * kWide);
  const std::int64_t start =
      static_cast<std::int64_t>(blockIdx.x) * Kernels::kNormBlock + threadIdx.x * kWide;
  Pack<kWide> packs[kPacksEach] = {};
#pragma unroll
  for (int k = 0; k < kPacksEach; ++k) {
    const std::int64_t first = start + k * kThreads * kWide;
    if (first + kWide <= n) {
      packs[k] = read_pack<kWide>(x + first, wide);
    } else {
#pragma unroll
      for (int e = 0; e < kWide; ++e) {
        if (first + e < n) packs[k].of[e] = x[first + e];
      }
    }
  }
  double sum = 0;
#pragma unroll
  for (int k = 0; k < kPacksEach; ++k) {
#pragma unroll
    for (int e = 0; e < kWide; ++e) {
      const double v = packs[k].of[e];
      sum = fma(v, v, sum);  // the product is exact
    }
  }
  sum = block_reduce(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

}  // namespace

void CudaKernels::reduce_sum(Stream& s, const Tensor& x, float factor, Tensor y) {
  if (y.numel() == 0) return;
  if (x.numel() == 0) return fill(s, y, 0);
  const OnStream on(s);
  const Reduction by = Reduction::of(x.shape, y.shape);
  for_stored(x.dtype, [&]<typename T>(Stored<T>) {
    constexpr int kEach = sizeof(T) < sizeof(float) ? 2 : 1;
    if (!by.rows && by.inner % kEach == 0) {
      sum_columns<kEach>(s, on, x.as<T>(), by, factor, y.as<float>());
    } else if (!by.rows) {
      sum_columns<1>(s, on, x.as<T>(), by, factor, y.as<float>());
    } else if (by.inner % kWideOf<T> == 0) {  // what follows then begins at packs as well
      sum_rows<kWideOf<T>>(s, on, x.as<T>(), by, factor, y.as<float>());
    } else {
      sum_rows<1>(s, on, x.as<T>(), by, factor, y.as<float>());
    }
  });
  check_launch("reduce_sum");
}

void CudaKernels::sum_squares(Stream& s, const Tensor& x, Tensor sums) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const OnStream on(s);
  sum_squares_kernel<<<blocks_for(n, kNormBlock), kThreads, 0, on.stream>>>(
      x.as<float>(), n, aligned(x.data), sums.as<double>());
  check_launch("sum_squares");
}

}  // namespace peal::cuda
