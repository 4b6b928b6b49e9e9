// Cross entropy over long rows of halves, which are read 16 bytes at a time and once: a block for
// each row, and nothing of f64 but sums of packs, as a GPU converts few values a clock to f64 and
// halves come at twice the rate of floats. The largest logit and the sum of exponentials are kept
// up together (Milakov & Gimelshein 2018, algorithm 3).
#pragma once

#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {

// e^d for d <= 0, of the special function unit: within 1e-6 * (1 + |d|) of itself.
__device__ inline float exp_of_half(float d) {
  float e;  // by way of 2^x, what is below 2^-126 being 0
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(d * 1.44269504f));
  return e;
}

// What a block has of row blockIdx.x: packs that lie wholly inside, and single elements before and
// behind them, at most kWidth - 1 each, as rows may begin at any element.
template <int kWidth, int kBlock>
struct HalfRow {
  std::int64_t begin, end;              // in the array
  std::int64_t whole_begin, whole_end;  // packs

  __device__ HalfRow(std::int64_t columns, std::int64_t pitch)
      : begin(blockIdx.x * pitch),
        end(begin + columns),
        whole_begin((begin + kWidth - 1) / kWidth * kWidth),
        whole_end(end / kWidth * kWidth) {
    if (whole_begin > whole_end) whole_begin = whole_end = end;  // none
  }

  // packs(at): kAtOnce packs of this thread from `at` on, kStep apart, as far as whole_end.
  static constexpr int kAtOnce = 4;
  static constexpr std::int64_t kStep = static_cast<std::int64_t>(kBlock) * kWidth;
  template <class F>
  __device__ void each_packs(F packs) const {
    for (std::int64_t at = whole_begin + static_cast<int>(threadIdx.x) * kWidth; at < whole_end;
         at += kAtOnce * kStep) {
      packs(at);
    }
  }
  template <class F>
  __device__ void each_single(F single) const {
    for (std::int64_t at = begin + threadIdx.x; at < whole_begin; at += kBlock) single(at);
    for (std::int64_t at = whole_end + threadIdx.x; at < end; at += kBlock) single(at);
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

// saved (rows, 2): of each row the largest logit and 1 / sum(exp(x - largest)).
template <int kWidth, int kBlock, typename T>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_of_halves(const T* logits, float* saved, std::int64_t columns,
                            std::int64_t pitch) {
  using Row = HalfRow<kWidth, kBlock>;
  const Row row(columns, pitch);
  RunningSum mine;
  row.each_packs([&](std::int64_t at) {
    Pack<kWidth> packs[Row::kAtOnce];
    if (at + (Row::kAtOnce - 1) * Row::kStep < row.whole_end) {
#pragma unroll
      for (int k = 0; k < Row::kAtOnce; ++k) {
        packs[k] = load_pack<kWidth>(logits + at + k * Row::kStep);
      }
#pragma unroll
      for (int k = 0; k < Row::kAtOnce; ++k) mine.add(packs[k]);
    } else {
      for (; at < row.whole_end; at += Row::kStep) mine.add(load_pack<kWidth>(logits + at));
    }
  });
  row.each_single([&](std::int64_t at) { mine.add(load_pack<1>(logits + at)); });
  const float largest = block_reduce<kBlock>(mine.largest, Larger());
  const double total =
      block_reduce<kBlock>(mine.sum * static_cast<double>(exp_of_half(mine.largest - largest)));
  if (threadIdx.x != 0) return;
  saved[2 * static_cast<std::int64_t>(blockIdx.x)] = largest;
  saved[2 * static_cast<std::int64_t>(blockIdx.x) + 1] = static_cast<float>(1 / total);
}

// What the gradient of a row is made of: factor * (p - (c == label)), p = inverse * e^(x -
// largest).
struct RowOfGradient {
  float largest, inverse, factor;
  std::int64_t label;  // in the array

  template <int kWidth>
  __device__ Pack<kWidth> of(const Pack<kWidth>& x, std::int64_t at) const {
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

// out may be logits. Behind each row, up to the next, out becomes 0; a row of weight 0 becomes 0
// and is not read.
template <int kWidth, int kBlock, typename T>
__global__ void __launch_bounds__(kBlock)
    cross_entropy_gradient_of_halves(const T* logits, const float* saved,
                                     const std::int32_t* labels, const float* weight,
                                     const float* dloss, std::int64_t of_record,
                                     std::int64_t columns, std::int64_t pitch, T* out) {
  using Row = HalfRow<kWidth, kBlock>;
  const Row row(columns, pitch);
  const std::int64_t r = blockIdx.x;
  const float w = weight[r / of_record];
  const auto write = [&](std::int64_t at, const Pack<kWidth>& pack) { store_pack(out + at, pack); };
  for (std::int64_t at = row.end + threadIdx.x; at < row.begin + pitch; at += kBlock) {
    out[at] = rounded<T>(0.0f);
  }
  if (w == 0) {
    for (std::int64_t at = row.whole_begin + static_cast<int>(threadIdx.x) * kWidth;
         at < row.whole_end; at += Row::kStep) {
      write(at, Pack<kWidth>{});
    }
    row.each_single([&](std::int64_t at) { out[at] = rounded<T>(0.0f); });
    return;
  }
  const RowOfGradient f{.largest = saved[2 * r],
                        .inverse = saved[2 * r + 1],
                        .factor = *dloss * w / static_cast<float>(of_record),
                        .label = row.begin + labels[r]};
  row.each_packs([&](std::int64_t at) {
    Pack<kWidth> packs[Row::kAtOnce];
    if (at + (Row::kAtOnce - 1) * Row::kStep < row.whole_end) {
#pragma unroll
      for (int k = 0; k < Row::kAtOnce; ++k) {
        packs[k] = load_pack<kWidth>(logits + at + k * Row::kStep);
      }
#pragma unroll
      for (int k = 0; k < Row::kAtOnce; ++k) {
        write(at + k * Row::kStep, f.of(packs[k], at + k * Row::kStep));
      }
    } else {
      for (; at < row.whole_end; at += Row::kStep) {
        write(at, f.of(load_pack<kWidth>(logits + at), at));
      }
    }
  });
  row.each_single(
      [&](std::int64_t at) { store_pack(out + at, f.of(load_pack<1>(logits + at), at)); });
}

}  // namespace peal::cuda
