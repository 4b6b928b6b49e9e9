#include <algorithm>

#include "core/kernels/cuda/narrow_wgrad.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

constexpr int kWarps = 4;          // of a block, each for its own output channels
constexpr int kOutputs = 4;        // channels of a warp
constexpr int kTaps = 9;           // of a block; a kernel with more has more blocks
constexpr int kSlots = kTaps + 1;  // sums of a channel: the last is the bias's
constexpr int kBlock = kWarps * kWarp;
constexpr int kBatch = 4;  // positions of a lane whose dy is read at once

constexpr std::int64_t kBlocks = 512;        // wanted: a chunk is no smaller than these need
constexpr std::int64_t kFewest = 128;        // positions of a chunk, unless a record has fewer
constexpr std::int64_t kMost = 4096;         // so that a lane adds some 128 in a row in f32
constexpr std::int64_t kXFloats = 6 << 10;   // of x in a block's shared memory
constexpr std::int64_t kMostSize = 1 << 12;  // of a dimension or a step: positions are 32 bits

// ---- Sums over a chunk ------------------------------------------------------------------------

// A channel's rows of x from first_row on, zeros around x included. A warp has every
// kWarps-th of them, and reads several at once.
__device__ void stage(const NarrowWgrad& c, const float* plane, int first_row, float* to) {
  constexpr int kAtOnce = 8;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int column = lane; column < c.x_columns; column += kWarp) {
    const int from_column = column - c.padding[1];
    const bool inside = from_column >= 0 && from_column < c.width;
    const float* const from = plane + min(max(from_column, 0), c.width - 1);
    for (int first = warp; first < c.x_rows; first += kAtOnce * kWarps) {
      float v[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int row = first_row + first + k * kWarps;  // of x; read anyway, as the nearest one
        const float read = from[min(max(row, 0), c.height - 1) * c.width];
        v[k] = inside && row >= 0 && row < c.height ? read : 0.0f;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int row = first + k * kWarps;
        if (row < c.x_rows) to[row * c.x_columns + column] = v[k];
      }
    }
  }
}

// A lane has the positions lane, lane + 32, ... of a chunk's dy, which lie in a row in memory.
// This is where the window of the next of them starts in the rows that were staged.
struct Place {
  __device__ Place(const NarrowWgrad& c, int lane)
      : out_width(c.out_width),
        step_column(kWarp % c.out_width),
        step(kWarp / c.out_width * c.stride[0] * c.x_columns + step_column * c.stride[1]),
        wrap(c.stride[0] * c.x_columns - c.out_width * c.stride[1]),
        column(lane % c.out_width),
        at(lane / c.out_width * c.stride[0] * c.x_columns + column * c.stride[1]) {}
  __device__ void advance() {
    column += step_column;
    at += step;
    if (column < out_width) return;
    column -= out_width;
    at += wrap;
  }
  int out_width, step_column, step, wrap, column, at;
};

using Batch = float[kBatch][kOutputs];

// Positions past the last are read as the last, and not used: so no read waits for a branch.
__device__ void read(const float* const (&dy)[kOutputs], int position, int positions, Batch& g) {
#pragma unroll
  for (int k = 0; k < kBatch; ++k) {
    const int p = min(position + k * kWarp, positions - 1);
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) g[k][o] = dy[o][p];
  }
}

// One step of a tree over the lanes: a lane and the one `apart` from it add, each for one half of
// the kCount sums, which is then its first. `upper` has the second half.
template <int kCount>
__device__ void fold(float (&sum)[kOutputs * kSlots], int apart, bool upper) {
  static_assert(kCount % 2 == 0);
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    const float low = sum[i], high = sum[i + kCount / 2];
    const float other = __shfl_xor_sync(0xffffffffu, upper ? low : high, apart);
    sum[i] = (upper ? high : low) + other;
  }
}

// partials[chunk][output][tap, then bias] = the sums over one chunk, for one block's channels and
// taps. Each float of dy is read once and meets kTaps of x from shared memory.
__global__ void __launch_bounds__(kBlock, 4)
    chunk_kernel(NarrowWgrad c, unsigned output_tiles, unsigned tap_groups,
                 const float* __restrict__ x, const float* __restrict__ dy,
                 float* __restrict__ partials) {
  extern __shared__ float staged[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int group = blockIdx.x % tap_groups;
  const int tile = blockIdx.x / tap_groups % output_tiles;
  const std::int64_t chunk = blockIdx.x / tap_groups / output_tiles, record = chunk / c.bands;
  const int first_row = static_cast<int>(chunk % c.bands) * c.band_rows;
  const int first_output = (tile * kWarps + warp) * kOutputs;
  const int positions = min(c.band_rows, c.out_height - first_row) * c.out_width;

  const float* of_output[kOutputs];  // past the last channel: the last, for nothing
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const std::int64_t plane = record * c.outputs + min(first_output + o, c.outputs - 1);
    of_output[o] = dy + (plane * c.out_height + first_row) * c.out_width;
  }
  Batch g;
  read(of_output, lane, positions, g);  // under way while x is staged
  for (int k = 0; k < c.channels; ++k) {
    stage(c, x + (record * c.channels + k) * c.height * c.width,
          first_row * c.stride[0] - c.padding[0], staged + k * c.x_rows * c.x_columns);
  }
  __syncthreads();

  int offset[kTaps];
#pragma unroll
  for (int t = 0; t < kTaps; ++t) offset[t] = c.offset[group * kTaps + t];
  float sum[kOutputs * kSlots] = {};
  Place place(c, lane);
  for (int p = lane; p - lane < positions; p += kBatch * kWarp) {
    Batch next{};
    if (p - lane + kBatch * kWarp < positions) {
      read(of_output, p + kBatch * kWarp, positions, next);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (p + k * kWarp >= positions) break;
      float v[kTaps];
#pragma unroll
      for (int t = 0; t < kTaps; ++t) v[t] = staged[place.at + offset[t]];
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          sum[o * kSlots + t] = fmaf(g[k][o], v[t], sum[o * kSlots + t]);
        }
        sum[o * kSlots + kTaps] += g[k][o];
      }
      place.advance();
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) g[k][o] = next[k][o];
    }
  }

  // Lanes 8 i + 4 j to 8 i + 4 j + 3 end with half j of channel i's sums, still to be added.
  fold<kOutputs * kSlots>(sum, 16, (lane & 16) != 0);
  fold<kOutputs * kSlots / 2>(sum, 8, (lane & 8) != 0);
  fold<kSlots>(sum, 4, (lane & 4) != 0);
  const int output = first_output + lane / 8, columns = c.taps + (c.bias ? 1 : 0);
  float* const to = partials + (chunk * c.outputs + output) * columns;
#pragma unroll
  for (int i = 0; i < kSlots / 2; ++i) {
    const float total = warp_reduce<4>(sum[i]);
    const int slot = lane / 4 % 2 * (kSlots / 2) + i;
    const int tap = slot < kTaps ? group * kTaps + slot : c.taps;
    const bool wanted = slot < kTaps ? tap < c.taps : c.bias && group == 0;
    if (lane % 4 == 0 && output < c.outputs && wanted) to[tap] = total;
  }
}

// ---- Sums over chunks -------------------------------------------------------------------------

constexpr int kColumns = 8;  // outputs of a block: the 32 bytes that memory delivers

// dw and db from partials (chunks, count), where count = channels * (taps, then the bias).
__global__ void __launch_bounds__(kThreads)
    total_kernel(const float* __restrict__ partials, std::int64_t chunks, int count, int taps,
                 int columns, float* dw, float* db) {
  __shared__ double shared[kThreads];
  const Tile tile{.rows = kThreads / kColumns, .columns = kColumns};
  const TileThread thread(tile);
  const int i = static_cast<int>(blockIdx.x) * kColumns + thread.column;
  double sum = 0.0;
  if (i < count) {
#pragma unroll 8
    for (std::int64_t chunk = thread.row; chunk < chunks; chunk += kThreads / kColumns) {
      sum += partials[chunk * count + i];
    }
  }
  sum = sum_tile(sum, tile, shared);
  if (thread.row != 0 || i >= count) return;
  const int output = i / columns, tap = i % columns;
  (tap < taps ? dw[output * taps + tap] : db[output]) = static_cast<float>(sum);
}

int to_int(std::int64_t n) {
  return static_cast<int>(n);
}

std::int64_t output_tiles(std::int64_t outputs) {
  return ceil_div(outputs, kWarps * kOutputs);
}

}  // namespace

std::optional<NarrowWgrad> NarrowWgrad::of(const Conv2dSpec& spec) {
  const Shape y = spec.y();
  const std::int64_t taps = spec.w[1] * spec.w[2] * spec.w[3];
  // With few positions in a record the sums over chunks would be the larger part.
  if (spec.groups != 1 || taps > kMostTaps || y.numel() == 0 || y[2] * y[3] < kFewest / 2)
    return {};
  for (const std::int64_t n : {spec.w[0], spec.x[2], spec.x[3], spec.stride[0], spec.stride[1],
                               spec.padding[0], spec.padding[1]}) {
    if (n > kMostSize) return {};
  }
  std::int64_t reach[2];
  for (int a = 0; a < 2; ++a) reach[a] = (spec.w[2 + a] - 1) * spec.dilation[a] + 1;
  const std::int64_t x_columns = (y[3] - 1) * spec.stride[1] + reach[1];
  const std::int64_t fitting = kXFloats / (spec.w[1] * x_columns);  // rows of x
  if (fitting < reach[0]) return {};
  const std::int64_t of_record = output_tiles(y[1]) * ceil_div(taps, kTaps);  // blocks, undivided
  std::int64_t rows = ceil_div(y[2], ceil_div(kBlocks, y[0] * of_record));
  rows = std::max(rows, ceil_div(kFewest, y[3]));
  rows = std::min({rows, std::max<std::int64_t>(kMost / y[3], 1),
                   (fitting - reach[0]) / spec.stride[0] + 1, y[2]});
  const std::int64_t bands = ceil_div(y[2], rows);
  rows = ceil_div(y[2], bands);  // nearly as many in each
  const std::int64_t x_rows = (rows - 1) * spec.stride[0] + reach[0];

  NarrowWgrad c{};
  c.records = y[0];
  c.channels = to_int(spec.x[1]), c.height = to_int(spec.x[2]), c.width = to_int(spec.x[3]);
  c.outputs = to_int(y[1]), c.out_height = to_int(y[2]), c.out_width = to_int(y[3]);
  for (int a = 0; a < 2; ++a) {
    c.stride[a] = to_int(spec.stride[a]);
    c.padding[a] = to_int(spec.padding[a]);
  }
  c.taps = to_int(taps), c.bias = spec.bias;
  c.band_rows = to_int(rows), c.bands = to_int(bands);
  c.x_rows = to_int(x_rows), c.x_columns = to_int(x_columns);
  for (int t = 0; t < c.taps; ++t) {
    const std::int64_t kw = t % spec.w[3], kh = t / spec.w[3] % spec.w[2],
                       k = t / spec.w[3] / spec.w[2];
    c.offset[t] = to_int((k * x_rows + kh * spec.dilation[0]) * x_columns + kw * spec.dilation[1]);
  }
  return c;
}

std::size_t NarrowWgrad::scratch_bytes() const {
  return static_cast<std::size_t>(records * bands * outputs * (taps + (bias ? 1 : 0))) *
         sizeof(float);
}

// Reads dy once and x once for every 16 output channels, both as often again as there are nines of
// taps (mostly from the L2 cache); writes and reads the scratch.
void NarrowWgrad::run(Stream& s, const Tensor& x, const Tensor& dy, const Tensor& dw,
                      const Tensor& db, const Tensor& scratch) const {
  const OnStream on(s);
  const std::int64_t chunks = records * bands, tiles = output_tiles(outputs);
  const std::int64_t groups = ceil_div(taps, kTaps);
  const std::size_t x_bytes = sizeof(float) * static_cast<std::size_t>(channels) *
                              static_cast<std::size_t>(x_rows * x_columns);
  float* const partials = scratch.as<float>();
  chunk_kernel<<<blocks_for(chunks * tiles * groups, 1), kBlock, x_bytes, on.stream>>>(
      *this, static_cast<unsigned>(tiles), static_cast<unsigned>(groups), x.as<float>(),
      dy.as<float>(), partials);
  check_launch("conv2d backward_weights");
  const int columns = taps + (bias ? 1 : 0), count = outputs * columns;
  total_kernel<<<blocks_for(count, kColumns), kThreads, 0, on.stream>>>(
      partials, chunks, count, taps, columns, dw.as<float>(), bias ? db.as<float>() : nullptr);
  check_launch("conv2d backward_weights, sums over chunks");
}

}  // namespace peal::cuda
