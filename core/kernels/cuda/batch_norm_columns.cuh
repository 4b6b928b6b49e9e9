// batch_norm of channels that lie side by side: (records * pixels, channels). For .cu files alone.
//
// Sums: blocks have some channels of a part of the rows, whose sums wait in the stream's workspace.
// Element by element: a thread keeps to its channels, whose rules its block makes once.
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

// How threads of a block share (rows, packs of a row): neighbours have the packs of a tile, then
// the next row.
struct ColumnTiles {
  int packs;  // of a tile, side by side: a power of two
  std::int64_t row_packs, rows_of_block;
  Divider tiles;

  static ColumnTiles of(std::int64_t row_packs, int most) {
    int packs = 1;
    while (packs < row_packs && packs < most) packs *= 2;
    return {packs, row_packs, 0, Divider(ceil_div(row_packs, packs))};
  }
  // Rows that a block takes at once if each thread takes `at_once`.
  std::int64_t round(int at_once) const {
    return static_cast<std::int64_t>(kThreads) / packs * at_once;
  }
  // Among about that many blocks, or more where each would have more than so many rounds.
  void share(std::int64_t rows, int at_once, std::int64_t blocks, std::int64_t most_rounds) {
    const std::int64_t rounds = ceil_div(ceil_div(rows, round(at_once)) * tiles.value(), blocks);
    rows_of_block = std::min(rounds, most_rounds) * round(at_once);
  }
};

// 16-byte packs that a thread reads before it looks at the first.
constexpr int kColumnReads = 8;

// ---- Sums over rows ---------------------------------------------------------------------------

// The channels whose sums the workspace holds at a time.
struct Span {
  std::int64_t from, to;
};

// Rows of each array that a thread reads at once, a part of those that it adds up in a run: on how
// many arrays are read no bit depends.
template <class F>
constexpr int kRowsAtOnce = F::kRun* F::kIn <= kColumnReads ? F::kRun : F::kRun / 2;

// Block (tile of the span, part of the rows); sums is (part, 2, channel of the span). A thread's
// sums are added up over its warp in a tree, then over the warps in order.
template <int kWidth, int kMostPacks, class F, typename T>
__global__ void __launch_bounds__(kThreads, 2)
    sum_columns_kernel(Arrays<const T, F::kIn> in, const float* weight, Columns of, Span span,
                       ColumnTiles by, bool wide, F f, double* sums) {
  constexpr int kWarps = kThreads / kWarp, kAtOnce = kRowsAtOnce<F>;
  constexpr int kColumns = kMostPacks * kWidth;
  static_assert(2 * kColumns <= kThreads);
  __shared__ double shared[kWarps][2][kColumns];
  const int pack = static_cast<int>(threadIdx.x) % by.packs, step = kThreads / by.packs;
  const int warp = static_cast<int>(threadIdx.x) / kWarp, columns = by.packs * kWidth;
  const std::int64_t tile = span.from + static_cast<std::int64_t>(blockIdx.x) * columns;
  const std::int64_t c = tile + pack * kWidth;
  const std::int64_t begin = blockIdx.y * by.rows_of_block;
  const std::int64_t end = min(begin + by.rows_of_block, of.rows);
  double first[kWidth] = {}, second[kWidth] = {};
  if (c < span.to) {
    decltype(f.channel(c)) channels[kWidth];
#pragma unroll
    for (int e = 0; e < kWidth; ++e) channels[e] = f.channel(c + e);
#pragma unroll 1
    for (std::int64_t run = begin + threadIdx.x / by.packs; run < end; run += F::kRun * step) {
      RunOf<T> ones[kWidth] = {}, twos[kWidth] = {};
#pragma unroll 1
      for (int done = 0; done < F::kRun; done += kAtOnce) {
        const std::int64_t r = run + done * step;
        AsRead<kWidth, T> packs[kAtOnce][F::kIn];
        bool counts[kAtOnce];
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const std::int64_t row = r + k * step;
          if (row >= end) continue;
#pragma unroll
          for (int a = 0; a < F::kIn; ++a) {
            packs[k][a] = read_as_is<kWidth>(in.of[a] + row * of.channels + c, wide);
          }
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const std::int64_t row = r + k * step;
          counts[k] = row < end && weight[of.pixels.divide(row)] > 0;
        }
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) {
          const std::int64_t row = r + k * step;
          if constexpr (F::kWrites) {
            if (row >= end) continue;
            Pack<kWidth> x[F::kIn], passed;
#pragma unroll
            for (int a = 0; a < F::kIn; ++a) x[a] = packs[k][a].widened();
#pragma unroll
            for (int e = 0; e < kWidth; ++e) {
              float v[F::kIn];
#pragma unroll
              for (int a = 0; a < F::kIn; ++a) v[a] = x[a].of[e];
              passed.of[e] = f.gradient(v, channels[e]);
              if (counts[k]) f.add_gradient(v[0], passed.of[e], channels[e], ones[e], twos[e]);
            }
            write_pack<kWidth>(f.out + row * of.channels + c, passed, wide);
          } else {
            if (!counts[k]) continue;
            Pack<kWidth> x[F::kIn];
#pragma unroll
            for (int a = 0; a < F::kIn; ++a) x[a] = packs[k][a].widened();
#pragma unroll
            for (int e = 0; e < kWidth; ++e) {
              float v[F::kIn];
#pragma unroll
              for (int a = 0; a < F::kIn; ++a) v[a] = x[a].of[e];
              f.add(v, channels[e], ones[e], twos[e]);
            }
          }
        }
      }
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        first[e] += ones[e];
        second[e] += twos[e];
      }
    }
  }
  for (int apart = kWarp / 2; apart >= by.packs; apart /= 2) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      first[e] += __shfl_xor_sync(0xffffffffu, first[e], apart);
      second[e] += __shfl_xor_sync(0xffffffffu, second[e], apart);
    }
  }
  if (static_cast<int>(threadIdx.x) % kWarp < by.packs) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      shared[warp][0][pack * kWidth + e] = first[e];
      shared[warp][1][pack * kWidth + e] = second[e];
    }
  }
  __syncthreads();
  const int mine = static_cast<int>(threadIdx.x), which = mine / columns, column = mine % columns;
  if (which >= 2 || tile + column >= span.to) return;
  double sum = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) sum += shared[w][which][column];
  const std::int64_t row = 2 * static_cast<std::int64_t>(blockIdx.y) + which;
  sums[row * (span.to - span.from) + tile + column - span.from] = sum;
}

// A block has four channels: a thread every 64th part of one.
constexpr int kFinished = 4;
template <class F>
__global__ void __launch_bounds__(kThreads)
    finish_columns_kernel(const float* weight, Columns of, Span span, const double* sums, int parts,
                          F f) {
  constexpr int kSlices = kThreads / kFinished;
  __shared__ double shared[kThreads];
  const Tile tile{kSlices, kFinished};
  const TileThread me(tile);
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kFinished + me.column;
  const std::int64_t width = span.to - span.from;
  double first = 0, second = 0;
  if (i < width) {
#pragma unroll 4
    for (int p = me.row; p < parts; p += kSlices) {
      first += sums[2 * p * width + i];
      second += sums[(2 * p + 1) * width + i];
    }
  }
  first = sum_tile(first, tile, shared);
  second = sum_tile(second, tile, shared);
  const double n = static_cast<double>(count_records<kThreads>(weight, of.records)) *
                   static_cast<double>(of.pixels.value());
  if (me.row == 0 && i < width) f.finish(span.from + i, n, first, second);
}

template <class F, typename T>
void sum_columns(Stream& s, const OnStream& on, const Columns& of,
                 const Arrays<const T, F::kIn>& in, const Tensor& weight, bool wide, const F& f) {
  constexpr std::int64_t kSums = Stream::kWorkspaceBytes / sizeof(double), kBlocks = 1056;
  constexpr std::int64_t kMostChannels = 4096;
  static_assert(2 * kMostChannels <= kSums);
  double* const sums = parts_of(s);
  const float* const w = weight.as<float>();
  const auto launch = [&](auto kernel, const Span& span, int pack, int most_packs) {
    const std::int64_t width = span.to - span.from;
    ColumnTiles by = ColumnTiles::of(width / pack, most_packs);
    by.share(of.rows, F::kRun, kBlocks, of.rows);
    const std::int64_t least = ceil_div(of.rows, kSums / (2 * width));  // so that sums fit
    by.rows_of_block = std::max(by.rows_of_block, least);
    const auto parts = static_cast<unsigned>(ceil_div(of.rows, by.rows_of_block));
    const dim3 blocks(static_cast<unsigned>(by.tiles.value()), parts);
    kernel<<<blocks, kThreads, 0, on.stream>>>(in, w, of, span, by, wide, f, sums);
    finish_columns_kernel<<<blocks_for(width, kFinished), kThreads, 0, on.stream>>>(
        w, of, span, sums, static_cast<int>(parts), f);
  };
  constexpr int kPack = kWideOf<T>;
  for (std::int64_t from = 0; from < of.channels; from += kMostChannels) {
    const Span span{from, std::min(from + kMostChannels, of.channels)};
    if (of.channels % kPack == 0) {
      launch(sum_columns_kernel<kPack, 16, F, T>, span, kPack, 16);
    } else {
      launch(sum_columns_kernel<1, 32, F, T>, span, 1, 32);
    }
  }
}

// ---- Element by element ---------------------------------------------------------------------

// A thread has one pack of some rows; block (tile, rows) by one number, the last rows first: the
// sums have read these last, so that the L2 cache may still hold them.
template <int kWidth, class F, typename T>
__global__ void __launch_bounds__(kThreads, F::kBlocks)
    for_columns_kernel(Arrays<const T, F::kIn> in, Columns of, ColumnTiles by, bool wide, F f,
                       T* out) {
  constexpr int kMine = kColumnReads / 2;
  using Rule = decltype(f.rule(0));
  __shared__ Rule shared[kWarp * kWidth];
  static_assert(kWarp * kWidth <= kThreads);
  const std::int64_t block = gridDim.x - 1 - blockIdx.x, group = by.tiles.divide(block);
  const int lane = static_cast<int>(threadIdx.x) % by.packs, step = kThreads / by.packs;
  const std::int64_t tile = (block - group * by.tiles.value()) * by.packs;
  const std::int64_t c = (tile + lane) * kWidth;
  const std::int64_t begin = group * by.rows_of_block;
  const std::int64_t end = tile + lane < by.row_packs ? min(begin + by.rows_of_block, of.rows) : 0;
  AsRead<kWidth, T> packs[kMine][F::kIn];
  bool counts[kMine];
  const auto read = [&](std::int64_t r) {
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t row = r + k * step;
      if (row >= end) continue;
#pragma unroll
      for (int a = 0; a < F::kIn; ++a) {
        packs[k][a] = read_as_is<kWidth>(in.of[a] + row * of.channels + c, wide);
      }
    }
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t row = r + k * step;
      counts[k] = row < end && f.counts(of.pixels.divide(row));
    }
  };
  std::int64_t r = begin + threadIdx.x / by.packs;
  read(r);  // on its way while rules are made
  f.begin();
  const int mine = static_cast<int>(threadIdx.x);
  if (mine < by.packs * kWidth && tile * kWidth + mine < of.channels) {
    shared[mine] = f.rule(tile * kWidth + mine);
  }
  __syncthreads();
  if (r >= end) return;
  Rule rules[kWidth];
#pragma unroll
  for (int e = 0; e < kWidth; ++e) rules[e] = shared[lane * kWidth + e];
  for (;;) {
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t row = r + k * step;
      if (row >= end) continue;
      Pack<kWidth> to = {};
      if (counts[k]) {
        Pack<kWidth> x[F::kIn];
#pragma unroll
        for (int a = 0; a < F::kIn; ++a) x[a] = packs[k][a].widened();
#pragma unroll
        for (int e = 0; e < kWidth; ++e) {
          float v[F::kIn];
#pragma unroll
          for (int a = 0; a < F::kIn; ++a) v[a] = x[a].of[e];
          to.of[e] = rules[e](v);
        }
      }
      write_pack<kWidth>(out + row * of.channels + c, to, wide);
    }
    r += kMine * step;
    if (r >= end) return;
    read(r);
  }
}

template <class F, typename T>
void for_columns(const OnStream& on, const Columns& of, const Arrays<const T, F::kIn>& in,
                 bool wide, const F& f, T* out) {
  constexpr std::int64_t kBlocks = 1056, kMostRounds = 8;
  const auto launch = [&](auto kernel, int width) {
    ColumnTiles by = ColumnTiles::of(of.channels / width, kWarp);
    by.share(of.rows, kColumnReads / 2, kBlocks, kMostRounds);
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
