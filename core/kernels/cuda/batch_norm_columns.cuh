// batch_norm of channels that lie side by side: (records * pixels, channels). For .cu files alone.
//
// Sums: blocks have 16 channels of a part of the rows, whose sums wait in the stream's workspace.
// Element by element: a thread keeps to its channels, whose rules it makes once.
#pragma once

#include <algorithm>

#include "core/kernels/cuda/batch_norm.cuh"

namespace peal::cuda {

struct Columns {
  std::int64_t records, channels, rows;  // rows: of all records
  Divider pixels;                        // rows of a record
};

inline Columns columns_of(const Tensor& x) {
  const std::int64_t records = x.shape[0], channels = x.shape[1];
  const std::int64_t pixels = x.numel() / (records * channels);
  return {records, channels, records * pixels, Divider(pixels)};
}

// ---- Sums over rows ---------------------------------------------------------------------------

constexpr int kSumColumns = 16, kColumnBlock = 512;

// Over the threads of a warp that have the same pack.
template <int kPacks>
__device__ double sum_of_pack(double value) {
#pragma unroll
  for (int apart = kWarp / 2; apart >= kPacks; apart /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, apart);
  }
  return value;
}

// The channels whose sums the workspace holds at a time.
struct Span {
  std::int64_t from, to;
};

// Block (tile of the span, part of the rows); sums is (part, 2, channel of the span). Neighbouring
// threads have the packs of a row, then the next row. A thread's sums are added up over its warp in
// a tree, then over the warps in order.
template <int kWidth, class F, typename T>
__global__ void __launch_bounds__(kColumnBlock)
    sum_columns_kernel(Arrays<const T, F::kIn> in, const float* weight, Columns of, Span span,
                       bool wide, std::int64_t rows_each, F f, double* sums) {
  constexpr int kPacks = kSumColumns / kWidth, kRows = kColumnBlock / kPacks;
  constexpr int kWarps = kColumnBlock / kWarp, kAtOnce = (kWidth == 1 ? 8 : 4) / F::kIn;
  __shared__ double shared[kWarps][2][kSumColumns];
  const int pack = static_cast<int>(threadIdx.x) % kPacks;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const std::int64_t tile = span.from + static_cast<std::int64_t>(blockIdx.x) * kSumColumns;
  const std::int64_t c = tile + pack * kWidth;
  const std::int64_t begin = blockIdx.y * rows_each, end = min(begin + rows_each, of.rows);
  double first[kWidth] = {}, second[kWidth] = {};
  if (c < span.to) {
    decltype(f.channel(c)) channels[kWidth];
#pragma unroll
    for (int e = 0; e < kWidth; ++e) channels[e] = f.channel(c + e);
    for (std::int64_t r = begin + threadIdx.x / kPacks; r < end; r += kAtOnce * kRows) {
      Pack<kWidth> packs[kAtOnce][F::kIn];
      bool counts[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const std::int64_t row = r + k * kRows;
        counts[k] = row < end && weight[of.pixels.divide(row)] > 0;
        if (!counts[k]) continue;
#pragma unroll
        for (int a = 0; a < F::kIn; ++a) {
          packs[k][a] = read_pack<kWidth>(in.of[a] + row * of.channels + c, wide);
        }
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (!counts[k]) continue;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          float v[F::kIn];
#pragma unroll
          for (int a = 0; a < F::kIn; ++a) v[a] = packs[k][a].of[e];
          f.add(v, channels[e], first[e], second[e]);
        }
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    const double one = sum_of_pack<kPacks>(first[e]), two = sum_of_pack<kPacks>(second[e]);
    if (threadIdx.x % kWarp < kPacks) {
      shared[warp][0][pack * kWidth + e] = one;
      shared[warp][1][pack * kWidth + e] = two;
    }
  }
  __syncthreads();
  const int mine = static_cast<int>(threadIdx.x);
  if (mine >= 2 * kSumColumns) return;
  const int which = mine / kSumColumns, column = mine % kSumColumns;
  if (tile + column >= span.to) return;
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += shared[w][which][column];
  const std::int64_t row = 2 * static_cast<std::int64_t>(blockIdx.y) + which;
  sums[row * (span.to - span.from) + tile + column - span.from] = sum;
}

// A thread a channel.
template <class F>
__global__ void __launch_bounds__(kThreads)
    finish_columns_kernel(const float* weight, Columns of, Span span, const double* sums, int parts,
                          F f) {
  const double n = static_cast<double>(count_records<kThreads>(weight, of.records)) *
                   static_cast<double>(of.pixels.value());
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t width = span.to - span.from;
  if (i >= width) return;
  double first = 0, second = 0;
  for (int p = 0; p < parts; ++p) {
    first += sums[2 * p * width + i];
    second += sums[(2 * p + 1) * width + i];
  }
  f.finish(span.from + i, n, first, second);
}

template <class F, typename T>
void sum_columns(Stream& s, const OnStream& on, const Columns& of,
                 const Arrays<const T, F::kIn>& in, const Tensor& weight, bool wide, const F& f) {
  constexpr std::int64_t kSums = Stream::kWorkspaceBytes / sizeof(double);
  constexpr std::int64_t kMostChannels = kSums / 2, kLeastRows = 256, kMostRowParts = 512;
  double* const sums = parts_of(s);
  const float* const w = weight.as<float>();
  for (std::int64_t from = 0; from < of.channels; from += kMostChannels) {
    const Span span{from, std::min(from + kMostChannels, of.channels)};
    const std::int64_t width = span.to - span.from;
    const std::int64_t fit = std::min(kSums / (2 * width), of.rows / kLeastRows);
    const std::int64_t parts = std::clamp<std::int64_t>(fit, 1, kMostRowParts);
    const std::int64_t each = ceil_div(of.rows, parts);
    const dim3 blocks(blocks_for(width, kSumColumns), static_cast<unsigned>(parts));
    const auto kernel = of.channels % kWideOf<T> == 0 ? sum_columns_kernel<kWideOf<T>, F, T>
                                                      : sum_columns_kernel<1, F, T>;
    kernel<<<blocks, kColumnBlock, 0, on.stream>>>(in, w, of, span, wide, each, f, sums);
    finish_columns_kernel<<<blocks_for(width, kThreads), kThreads, 0, on.stream>>>(
        w, of, span, sums, static_cast<int>(parts), f);
  }
}

// ---- Element by element ---------------------------------------------------------------------

// How threads of a block share (rows, packs of a row).
struct ColumnTiles {
  int packs;  // of a tile, side by side: a power of two up to 32
  Divider tiles;
  std::int64_t row_packs, rows_of_block;
};

// A thread has one pack of some rows; block (tile, rows) by one number.
template <int kWidth, class F, typename T>
__global__ void __launch_bounds__(kThreads)
    for_columns_kernel(Arrays<const T, F::kIn> in, Columns of, ColumnTiles by, bool wide, F f,
                       T* out) {
  constexpr int kMine = 4 / F::kIn;
  const std::int64_t group = by.tiles.divide(blockIdx.x);
  const int lane = static_cast<int>(threadIdx.x) % by.packs, step = kThreads / by.packs;
  const std::int64_t pack = (blockIdx.x - group * by.tiles.value()) * by.packs + lane;
  const std::int64_t begin = group * by.rows_of_block;
  const std::int64_t end = min(begin + by.rows_of_block, of.rows);
  f.begin();
  if (pack >= by.row_packs) return;
  const std::int64_t c = pack * kWidth;
  decltype(f.rule(0, c)) rules[kWidth];
#pragma unroll
  for (int e = 0; e < kWidth; ++e) rules[e] = f.rule(0, c + e);
  for (std::int64_t r = begin + threadIdx.x / by.packs; r < end; r += kMine * step) {
    Pack<kWidth> packs[kMine][F::kIn];
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t row = r + k * step;
      if (row >= end) continue;
#pragma unroll
      for (int a = 0; a < F::kIn; ++a) {
        packs[k][a] = read_pack<kWidth>(in.of[a] + row * of.channels + c, wide);
      }
    }
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t row = r + k * step;
      if (row >= end) continue;
      const std::int64_t record = of.pixels.divide(row);
      Pack<kWidth> to;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        float v[F::kIn];
#pragma unroll
        for (int a = 0; a < F::kIn; ++a) v[a] = packs[k][a].of[e];
        f.go_to(record, rules[e]);
        to.of[e] = rules[e](v);
      }
      write_pack<kWidth>(out + row * of.channels + c, to, wide);
    }
  }
}

template <class F, typename T>
void for_columns(const OnStream& on, const Columns& of, const Arrays<const T, F::kIn>& in,
                 bool wide, const F& f, T* out) {
  constexpr std::int64_t kRounds = 8;  // of a thread, so that rules are worth it
  const auto launch = [&](auto kernel, int width) {
    const std::int64_t row_packs = of.channels / width;
    int packs = 1;
    while (packs < row_packs && packs < kWarp) packs *= 2;
    const ColumnTiles by{packs, Divider(ceil_div(row_packs, packs)), row_packs,
                         kThreads / packs * (4 / F::kIn) * kRounds};
    const std::int64_t blocks = by.tiles.value() * ceil_div(of.rows, by.rows_of_block);
    kernel<<<blocks_for(blocks, 1), kThreads, 0, on.stream>>>(in, of, by, wide, f, out);
  };
  if (of.channels % kWideOf<T> == 0) {
    launch(for_columns_kernel<kWideOf<T>, F, T>, kWideOf<T>);
  } else {
    launch(for_columns_kernel<1, F, T>, 1);
  }
}

}  // namespace peal::cuda
