// Cross entropy over long rows of halves, which are read 16 bytes at a time and once: a block for
// each row, and nothing of f64 but sums of packs, as a GPU converts few values a clock to f64 and
// halves come at twice the rate of floats. The largest logit and the sum of exponentials are kept
// up together (Milakov & Gimelshein 2018, algorithm 3).
#pragma once

#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {

// What the rows of the logits stand for; a record has `of_record` of them.
struct LabelledRows {
  const std::int32_t* labels;
  const float* weight;  // of records
  const float* dloss;
  Divider of_record;

  __device__ float weight_of(std::int64_t row) const { return weight[of_record.divide(row)]; }
  // What (p - (c == label)) is multiplied by in a row of that weight.
  __device__ float factor(float of_weight) const {
    return *dloss * of_weight / static_cast<float>(of_record.value());
  }
};

// A row's loss, before its weight.
__device__ inline double loss_of(float largest, float inverse, float at_label) {
  return largest - log(static_cast<double>(inverse)) - at_label;
}

// e^d for d <= 0, of the special function unit: within 1e-6 * (1 + |d|) of itself.
__device__ inline float exp_of_half(float d) {
  return exp2_approx(d * 1.44269504f);
}

// What a block has of row blockIdx.x: packs that lie wholly inside, and single elements before and
// behind them, at most kWidth - 1 each, as rows may begin at any element.
template <int kWidth, int kBlock>
struct HalfRow {
  std::int64_t base;        // a pack's beginning in the array, from which the others count
  std::int64_t begin, end;  // of the row
  std::int64_t gap_end;     // of what lies between it and the next one
  std::int64_t whole_begin, whole_end;  // packs

  __device__ HalfRow(std::int64_t columns, std::int64_t pitch)
      : base(blockIdx.x * pitch / kWidth * kWidth),
        begin(blockIdx.x * pitch - base),
        end(begin + columns),
        gap_end(begin + pitch),
        whole_begin(begin > 0 ? kWidth : 0),
        whole_end(end / kWidth * kWidth) {
    if (whole_begin > whole_end) whole_begin = whole_end = end;  // none
  }

  // f(at, what was read there): this thread's packs, kAtOnce of which are read before f has the
  // first of them, then its single elements.
  template <int kAtOnce = 4, typename T, class F>
  __device__ void each(const T* from, F f) const {
    for (std::int64_t at = mine(whole_begin); at < whole_end; at += kAtOnce * kStep) {
      AsRead<kWidth, T> packs[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (at + k * kStep < whole_end) packs[k] = read_as_is<kWidth>(from + at + k * kStep, true);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        if (at + k * kStep < whole_end) f(at + k * kStep, packs[k]);
      }
    }
    each_single([&](std::int64_t at) { f(at, read_as_is<1>(from + at, true)); });
  }
  template <typename T>
  __device__ void clear(T* to) const {
    for (std::int64_t at = mine(whole_begin); at < whole_end; at += kStep) {
      store_pack(to + at, Pack<kWidth>{});
    }
    each_single([&](std::int64_t at) { to[at] = rounded<T>(0.0f); });
  }
  template <typename T>
  __device__ void clear_gap(T* to) const {
    each_of(end, gap_end, [&](std::int64_t at) { to[at] = rounded<T>(0.0f); });
  }

 private:
  static constexpr std::int64_t kStep = static_cast<std::int64_t>(kBlock) * kWidth;

  __device__ static std::int64_t mine(std::int64_t from) {
    return from + static_cast<int>(threadIdx.x) * kWidth;
  }
  template <class F>
  __device__ static void each_of(std::int64_t from, std::int64_t to, F f) {
    for (std::int64_t at = from + threadIdx.x; at < to; at += kBlock) f(at);
  }
  template <class F>
  __device__ void each_single(F f) const {
    each_of(begin, whole_begin, f);
    each_of(whole_end, end, f);
  }
};

// The largest of what has been added and the sum of e^(x - largest).
struct RunningSum {
  float largest = -INFINITY;
  double sum = 0;

  template <int kWidth>
  __device__ void add(const Pack<kWidth>& pack) {
    float most = pack.of[0];
#pragma unroll
    for (int e = 1; e < kWidth; ++e) most = fmaxf(most, pack.of[e]);
    if (most > largest) {
      sum *= static_cast<double>(exp_of_half(largest - most));
      largest = most;
    }
    const float from = largest == -INFINITY ? 0.0f : largest;  // of infinities alone: e^-inf
    float part[kWidth];
#pragma unroll
    for (int e = 0; e < kWidth; ++e) part[e] = exp_of_half(pack.of[e] - from);
#pragma unroll
    for (int apart = kWidth / 2; apart > 0; apart /= 2) {
#pragma unroll
      for (int e = 0; e < apart; ++e) part[e] += part[e + apart];
    }
    sum += static_cast<double>(part[0]);
  }
};

// Of a row: the largest logit and 1 / sum(exp(x - largest)).
struct RowSums {
  float largest, inverse;

  template <int kBlock>
  __device__ static RowSums of_block(const RunningSum& mine) {
    const float largest = block_reduce<kBlock>(mine.largest, Larger());
    const double total =
        block_reduce<kBlock>(mine.sum * static_cast<double>(exp_of_half(mine.largest - largest)));
    return {largest, static_cast<float>(1 / total)};
  }
};

// What the gradient of a row is made of: factor * (p - (c == label)), p = inverse * e^(x -
// largest).
struct RowOfGradient {
  RowSums sums;
  float factor;
  std::int64_t label;  // counted as the row's elements

  template <int kWidth>
  __device__ Pack<kWidth> of(const Pack<kWidth>& x, std::int64_t at) const {
    const auto [largest, inverse] = sums;
    const float both = inverse * factor;
    Pack<kWidth> to;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) to.of[e] = exp_of_half(x.of[e] - largest) * both;
    if (label >= at && label < at + kWidth) {
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        if (label == at + e) to.of[e] = factor * (exp_of_half(x.of[e] - largest) * inverse - 1);
      }
    }
    return to;
  }
};

// saved (rows, 2): RowSums.
template <int kWidth, int kBlock, typename T>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_of_halves(const T* logits, float* saved, std::int64_t columns,
                            std::int64_t pitch) {
  const HalfRow<kWidth, kBlock> row(columns, pitch);
  RunningSum mine;
  row.each(logits + row.base, [&](std::int64_t, const auto& read) { mine.add(read.widened()); });
  const RowSums sums = RowSums::of_block<kBlock>(mine);
  if (threadIdx.x != 0) return;
  saved[2 * static_cast<std::int64_t>(blockIdx.x)] = sums.largest;
  saved[2 * static_cast<std::int64_t>(blockIdx.x) + 1] = sums.inverse;
}

// out may be logits. Behind each row, up to the next, out becomes 0; a row of weight 0 becomes 0
// and is not read.
template <int kWidth, int kBlock, typename T>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_gradient_of_halves(const T* logits, const float* saved, LabelledRows rows,
                                     std::int64_t columns, std::int64_t pitch, T* out) {
  const HalfRow<kWidth, kBlock> row(columns, pitch);
  const std::int64_t r = blockIdx.x;
  const float w = rows.weight_of(r);
  T* const to = out + row.base;
  row.clear_gap(to);
  if (w == 0) return row.clear(to);
  const RowOfGradient gradient{
      {saved[2 * r], saved[2 * r + 1]}, rows.factor(w), row.begin + rows.labels[r]};
  row.each(logits + row.base, [&](std::int64_t at, const auto& read) {
    store_pack(to + at, gradient.of(read.widened(), at));
  });
}

// Both of it: losses (rows), f64, of rows whose weight is not 0, and their gradient. kept: a row
// finds room in shared memory, where a thread finds what it has read itself.
template <int kWidth, int kBlock, typename T>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_with_gradient_of_halves(const T* logits, double* losses, LabelledRows rows,
                                          std::int64_t columns, std::int64_t pitch, bool kept,
                                          T* out) {
  constexpr int kAtOnce = 8;  // where shared memory leaves room for few blocks
  const HalfRow<kWidth, kBlock> row(columns, pitch);
  const std::int64_t r = blockIdx.x;
  const float w = rows.weight_of(r);
  T* const to = out + row.base;
  row.clear_gap(to);
  if (w == 0) return row.clear(to);
  extern __shared__ float4 shared[];
  T* const held = reinterpret_cast<T*>(shared);
  const T* const from = logits + row.base;
  const std::int64_t label = row.begin + rows.labels[r];
  const float at_label = widen(from[label]);  // before anybody writes there
  RunningSum mine;
  row.template each<kAtOnce>(from, [&](std::int64_t at, const auto& read) {
    if (kept) hold(held + at, read);
    mine.add(read.widened());
  });
  const RowSums sums = RowSums::of_block<kBlock>(mine);
  if (threadIdx.x == 0) losses[r] = loss_of(sums.largest, sums.inverse, at_label);
  const RowOfGradient gradient{sums, rows.factor(w), label};
  row.each(kept ? held : from, [&](std::int64_t at, const auto& read) {
    store_pack(to + at, gradient.of(read.widened(), at));
  });
}

}  // namespace peal::cuda
