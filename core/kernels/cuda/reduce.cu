// reduce_sum reads x once. Where few outputs have much to add up, blocks sum parts of each, which
// wait in the stream's workspace: how many is a matter of the shapes alone. Of halves four or eight
// are added in f32 before they go on in f64 (sums.cuh).
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

template <int kWidth>
__device__ float sum_of_pack(const Pack<kWidth>& pack) {
  float sum = 0;
#pragma unroll
  for (int e = 0; e < kWidth; e += 4) {
    sum += (pack.of[e] + pack.of[e + 1]) + (pack.of[e + 2] + pack.of[e + 3]);
  }
  return sum;
}

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
    } else if constexpr (!std::is_same_v<T, float>) {
      sum += static_cast<double>(sum_of_pack(pack));
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

__global__ void __launch_bounds__(1024)  // block (tile, part)
    sum_columns(const float* x, Columns by, double factor, float* y, double* sums) {
  extern __shared__ double shared[];
  const TileThread me(by.tile);
  const std::int64_t table = by.tiles.divide(blockIdx.x);
  const std::int64_t tile = blockIdx.x - table * by.tiles.value();
  const std::int64_t column = tile * by.tile.columns + me.column;
  const std::int64_t begin = blockIdx.y * by.rows_each;
  const std::int64_t end = min(begin + by.rows_each, by.height);
  double sum = 0;
  if (column < by.width) {
    const float* from = x + by.kept.offset(table) + column;
    const int step = static_cast<int>(by.tile.rows);
#pragma unroll 8
    for (std::int64_t r = begin + me.row; r < end; r += step) {
      sum += static_cast<double>(from[by.summed.offset(r)]);
    }
  }
  sum = sum_tile(sum, by.tile, shared);
  if (me.row != 0 || column >= by.width) return;
  const std::int64_t output = table * by.width + column;
  if (by.parts > 1) {
    sums[output * by.parts + blockIdx.y] = sum;
  } else {
    y[output] = static_cast<float>(sum * factor);
  }
}

void sum_columns(Stream& s, const OnStream& on, const float* x, const Reduction& r, double factor,
                 float* y) {
  const std::int64_t tables = r.kept.count(), height = r.summed.count();
  const Tile tile = Tile::of(height, r.inner, tables);
  const std::int64_t outputs = tables * r.inner;
  const std::int64_t parts = parts_for(outputs, height, 16 * tile.rows);
  const Columns by{.kept = r.kept,
                   .summed = r.summed,
                   .tile = tile,
                   .tiles = Divider(ceil_div(r.inner, tile.columns)),
                   .width = r.inner,
                   .height = height,
                   .parts = parts,
                   .rows_each = ceil_div(height, parts)};
  const auto threads = static_cast<unsigned>(tile.threads());
  const dim3 blocks(blocks_for(tables * by.tiles.value(), 1), static_cast<unsigned>(parts));
  double* const sums = parts > 1 ? parts_of(s) : nullptr;
  sum_columns<<<blocks, threads, threads * sizeof(double), on.stream>>>(x, by, factor, y, sums);
  if (parts > 1) add_parts(on, sums, outputs, parts, factor, 1, y);
}

// ---- Outputs of halves side by side -----------------------------------------------------------

// Blocks of all parts: about as many as a large chip runs at once, whose sums of as many columns
// as kThreads / 8 packs are all that the workspace has to hold.
constexpr std::int64_t kBlocksOfHalves = 512;
static_assert(kBlocksOfHalves * kThreads * sizeof(double) <= Stream::kWorkspaceBytes);

// Columns as above, whose width and tile count packs. A thread adds four rows in f32, then that to
// its sums. kAligned tells how packs are read, which changes no bits.
template <int kWidth, bool kAligned, typename T>
__global__ void __launch_bounds__(kThreads, 4)  // block (tile, part)
    sum_columns_of_halves(const T* x, Columns by, double factor, float* y, double* sums) {
  constexpr int kAtOnce = 4;
  __shared__ double shared[kWidth][kThreads];
  const TileThread me(by.tile);
  const std::int64_t table = by.tiles.divide(blockIdx.x);
  const std::int64_t first = (blockIdx.x - table * by.tiles.value()) * by.tile.columns;
  const std::int64_t begin = blockIdx.y * by.rows_each;
  const int height = static_cast<int>(min(by.rows_each, by.height - begin));
  double sum[kWidth] = {};
  if (first + me.column < by.width) {
    const T* from = x + by.kept.offset(table) + (first + me.column) * kWidth;
    const int step = static_cast<int>(by.tile.rows);
    for (int r = me.row; r < height; r += kAtOnce * step) {
      std::int64_t at[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        at[k] = by.summed.offset(begin + min(r + k * step, height - 1));
      }
      Pack<kWidth> rows[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) rows[k] = read_pack<kWidth>(from + at[k], kAligned);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        float v[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) v[k] = r + k * step < height ? rows[k].of[e] : 0.0f;
        sum[e] += static_cast<double>((v[0] + v[1]) + (v[2] + v[3]));
      }
    }
  }
  const int thread = static_cast<int>(threadIdx.x), columns = static_cast<int>(by.tile.columns);
#pragma unroll
  for (int e = 0; e < kWidth; ++e) shared[e][thread] = sum[e];
  for (int apart = static_cast<int>(by.tile.rows) / 2; apart > 0; apart /= 2) {
    __syncthreads();
    if (thread >= apart * columns) continue;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) shared[e][thread] += shared[e][thread + apart * columns];
  }
  __syncthreads();
  const std::int64_t width = by.width * kWidth;
  const std::int64_t column = first * kWidth + thread;
  if (thread >= columns * kWidth || column >= width) return;
  const double total = shared[thread % kWidth][thread / kWidth];
  const std::int64_t outputs = gridDim.x / by.tiles.value() * width;
  if (by.parts > 1) {
    sums[blockIdx.y * outputs + table * width + column] = total;
  } else {
    y[table * width + column] = static_cast<float>(total * factor);
  }
}

// Of sums (parts, outputs): a block has eight outputs.
__global__ void __launch_bounds__(kThreads)
    add_parts_of_columns(const double* sums, std::int64_t outputs, std::int64_t parts,
                         double factor, float* y) {
  constexpr int kOutputs = 8;
  __shared__ double shared[kThreads];
  const Tile tile{.rows = kThreads / kOutputs, .columns = kOutputs};
  const TileThread me(tile);
  const std::int64_t output = static_cast<std::int64_t>(blockIdx.x) * kOutputs + me.column;
  double sum = 0;
  if (output < outputs) {
#pragma unroll 8
    for (std::int64_t p = me.row; p < parts; p += tile.rows) sum += sums[p * outputs + output];
  }
  sum = sum_tile(sum, tile, shared);
  if (me.row == 0 && output < outputs) y[output] = static_cast<float>(sum * factor);
}

template <int kWidth, typename T>
void sum_columns_of_halves(Stream& s, const OnStream& on, const T* x, const Reduction& r,
                           double factor, float* y) {
  const std::int64_t tables = r.kept.count(), height = r.summed.count();
  const std::int64_t width = r.inner / kWidth, outputs = tables * r.inner;
  Tile tile;
  while (tile.columns < kWarp && tile.columns < width) tile.columns *= 2;
  tile.rows = kThreads / tile.columns;
  const std::int64_t tiles = ceil_div(width, tile.columns);
  const std::int64_t most = std::min(kBlocksOfHalves / (tables * tiles), height / (8 * tile.rows));
  const std::int64_t parts = std::max<std::int64_t>(most, 1);
  const Columns by{.kept = r.kept,
                   .summed = r.summed,
                   .tile = tile,
                   .tiles = Divider(tiles),
                   .width = width,
                   .height = height,
                   .parts = parts,
                   .rows_each = ceil_div(height, parts)};
  const dim3 blocks(blocks_for(tables * tiles, 1), static_cast<unsigned>(parts));
  double* const sums = parts > 1 ? parts_of(s) : nullptr;
  if (aligned(x)) {
    sum_columns_of_halves<kWidth, true><<<blocks, kThreads, 0, on.stream>>>(x, by, factor, y, sums);
  } else {
    sum_columns_of_halves<kWidth, false>
        <<<blocks, kThreads, 0, on.stream>>>(x, by, factor, y, sums);
  }
  if (parts > 1)
    add_parts_of_columns<<<blocks_for(outputs, 8), kThreads, 0, on.stream>>>(sums, outputs, parts,
                                                                             factor, y);
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
    if constexpr (std::is_same_v<T, float>) {
      if (!by.rows) return sum_columns(s, on, x.as<T>(), by, factor, y.as<float>());
    } else if (!by.rows) {
      return by.inner % kWideOf<T> == 0
                 ? sum_columns_of_halves<kWideOf<T>>(s, on, x.as<T>(), by, factor, y.as<float>())
                 : sum_columns_of_halves<1>(s, on, x.as<T>(), by, factor, y.as<float>());
    }
    if (by.inner % kWideOf<T> == 0) {  // what follows then begins at packs as well
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
