// What batch_norm computes of a channel, wherever its values lie. For .cu files alone.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {

// What a channel's values become before an activation, the same in forward and backward.
struct Normal {
  float mean, factor, offset;

  Normal() = default;
  __device__ Normal(const float* means, const float* variance, const float* gamma,
                    const float* beta, float epsilon, std::int64_t c)
      : mean(means[c]), factor(gamma[c] / sqrtf(variance[c] + epsilon)), offset(beta[c]) {}
  __device__ float operator()(float x) const { return (x - mean) * factor + offset; }
};

// What relu gave of v, stored as T, is 0 where v is at most this: half of the smallest number,
// which rounds to even.
template <typename T>
constexpr float kNoMore = std::is_same_v<T, Bf16>  ? 0x1p-134f
                          : std::is_same_v<T, F16> ? 0x1p-25f
                                                   : 0.0f;

// ---- Sums over records and pixels -----------------------------------------------------------

// In what a few values of a channel are added up, before that is added to a sum in f64: a
// multiprocessor converts fewer values to f64 than memory brings halves, of which f32 keeps 16 bits
// (f16: 13) more than they have.
template <typename T>
using RunOf = std::conditional_t<std::is_same_v<T, float>, double, float>;

// How a channel is summed up: channel() is what its values have in common, add() takes one value of
// each array, finish() what n of them gave. kRun: rows of a run.
struct Moments {
  static constexpr int kIn = 1;  // x
  static constexpr int kRun = 8;
  static constexpr bool kWrites = false;
  float* mean;
  float* variance;
  float* contribution;  // or nullptr
  std::int64_t channels;

  struct Channel {};
  __device__ Channel channel(std::int64_t) const { return {}; }
  template <typename Sum>
  __device__ void add(const float* v, const Channel&, Sum& first, Sum& second) const {
    const Sum x = v[0];
    first += x;
    second = fma(x, x, second);  // the product is exact
  }
  __device__ void finish(std::int64_t c, double n, double sum, double squares) const {
    const double average = n == 0 ? 0.0 : sum / n;
    const double spread = n == 0 ? 0.0 : squares / n - average * average;
    mean[c] = static_cast<float>(average);
    variance[c] = spread < 0 ? 0.0f : static_cast<float>(spread);
    if (contribution == nullptr) return;
    const double unbiased = n > 1 ? n / (n - 1) : 1.0;  // one value has no unbiased variance
    contribution[c] = static_cast<float>(n * mean[c]);
    contribution[channels + c] = static_cast<float>(n * unbiased * variance[c]);
    if (c == 0) contribution[2 * channels] = static_cast<float>(n);
  }
};

// Which gradients pass: all, those of an x that relu behind batch norm let pass, or those of a y
// that is above 0.
enum class Mask : std::uint8_t { none, by_x, by_y };

// By y, what passes is written, too. kTerms: of dy, whose sum is rounded as if it were stored.
template <typename T, Mask kMask, int kTerms = 1>
struct Gradients {
  static constexpr bool kWrites = kMask == Mask::by_y;
  static constexpr int kIn = 1 + kTerms + (kWrites ? 1 : 0);  // x, terms of dy, y
  static constexpr int kRun = 4;
  const float *mean, *variance, *gamma, *beta;
  float epsilon;
  float* dgamma;
  float* dbeta;
  T* out = nullptr;  // what passes

  __device__ Normal channel(std::int64_t c) const {
    return {mean, variance, gamma, beta, epsilon, c};
  }
  __device__ float gradient(const float* v, const Normal& by) const {
    float g = v[1];
    if constexpr (kTerms == 2) g = widen(rounded<T>(v[1] + v[2]));
    if constexpr (kMask == Mask::by_x) return by(v[0]) <= kNoMore<T> ? 0.0f : g;
    if constexpr (kMask == Mask::by_y) return v[kIn - 1] <= 0 ? 0.0f : g;
    return g;
  }
  template <typename Sum>
  __device__ void add_gradient(float x, float g, const Normal& by, Sum& first, Sum& second) const {
    first += g;
    if constexpr (std::is_same_v<Sum, double>) {
      second += static_cast<double>(g) * (static_cast<double>(x) - static_cast<double>(by.mean));
    } else {
      second = fmaf(g, x - by.mean, second);
    }
  }
  template <typename Sum>
  __device__ void add(const float* v, const Normal& by, Sum& first, Sum& second) const {
    add_gradient(v[0], gradient(v, by), by, first, second);
  }
  __device__ void finish(std::int64_t c, double, double sum, double products) const {
    dbeta[c] = static_cast<float>(sum);
    dgamma[c] = static_cast<float>(products / sqrt(static_cast<double>(variance[c]) + epsilon));
  }
};

// Records that count, at every thread.
template <int kBlock>
__device__ int count_records(const float* weight, std::int64_t records) {
  int n = 0;
  for (std::int64_t b = threadIdx.x; b < records; b += kBlock) n += weight[b] > 0 ? 1 : 0;
  return block_reduce<kBlock>(n);
}

// ---- Element by element ---------------------------------------------------------------------

// What becomes of a channel's values, which rule() says once begin() was called; and whether a
// record's values become anything but 0.
template <bool kResidual>
struct Normalise {
  static constexpr int kIn = kResidual ? 2 : 1;      // x, residual
  static constexpr int kBlocks = kResidual ? 2 : 3;  // of a multiprocessor
  const float *mean, *variance, *gamma, *beta;
  float epsilon;
  bool relu;

  struct Rule {
    Normal by;
    bool relu;
    __device__ float operator()(const float* v) const {
      float y = by(v[0]);
      if constexpr (kResidual) y += v[1];
      return relu && y < 0 ? 0.0f : y;
    }
  };
  __device__ void begin() {}
  __device__ Rule rule(std::int64_t c) const {
    return {Normal(mean, variance, gamma, beta, epsilon, c), relu};
  }
  __device__ bool counts(std::int64_t) const { return true; }
};

// dx = a*g + b*(x - mean) + c, g = dy behind the activation; and 0 where a record is padding.
template <typename T, Mask kMask>
struct Backward {
  static_assert(kMask != Mask::by_y);
  static constexpr int kIn = 2;  // x, dy
  static constexpr int kBlocks = 2;
  const float *weight, *mean, *variance, *gamma, *beta, *dgamma, *dbeta;
  float epsilon;
  std::int64_t records, pixels;
  float per_n = 0;

  struct Rule {
    Normal by;
    float a, b, c;
    __device__ float operator()(const float* v) const {
      const float g = kMask == Mask::by_x && by(v[0]) <= kNoMore<T> ? 0.0f : v[1];
      return a * g + b * (v[0] - by.mean) + c;
    }
  };
  __device__ void begin() {
    const double n =
        static_cast<double>(count_records<kThreads>(weight, records)) * static_cast<double>(pixels);
    per_n = n == 0 ? 0.0f : static_cast<float>(1.0 / n);
  }
  __device__ Rule rule(std::int64_t c) const {
    const float rstd = 1.0f / sqrtf(variance[c] + epsilon), factor = gamma[c] * rstd;
    return {Normal(mean, variance, gamma, beta, epsilon, c), factor,
            -factor * rstd * (dgamma[c] * per_n), -factor * (dbeta[c] * per_n)};
  }
  __device__ bool counts(std::int64_t record) const { return weight[record] > 0; }
};

}  // namespace peal::cuda
