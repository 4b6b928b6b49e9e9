// What batch_norm computes of a channel, wherever its values lie. For .cu files alone.
#pragma once

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

// ---- Sums over records and pixels -----------------------------------------------------------

// How a channel is summed up: channel() is what its values have in common, add() takes one value of
// each array, finish() what n of them gave.
struct Moments {
  static constexpr int kIn = 1;  // x
  float* mean;
  float* variance;

  struct Channel {};
  __device__ Channel channel(std::int64_t) const { return {}; }
  __device__ void add(const float* v, const Channel&, double& first, double& second) const {
    const double x = v[0];
    first += x;
    second = fma(x, x, second);  // the product is exact
  }
  __device__ void finish(std::int64_t c, double n, double sum, double squares) const {
    const double average = n == 0 ? 0.0 : sum / n;
    const double spread = n == 0 ? 0.0 : squares / n - average * average;
    mean[c] = static_cast<float>(average);
    variance[c] = spread < 0 ? 0.0f : static_cast<float>(spread);
  }
};

struct Gradients {
  static constexpr int kIn = 2;  // x, dy
  const float *mean, *variance, *gamma, *beta;
  float epsilon;
  bool relu;
  float* dgamma;
  float* dbeta;

  __device__ Normal channel(std::int64_t c) const {
    return {mean, variance, gamma, beta, epsilon, c};
  }
  __device__ void add(const float* v, const Normal& by, double& first, double& second) const {
    const double g = relu && by(v[0]) <= 0 ? 0.0f : v[1];
    first += g;
    second += g * (static_cast<double>(v[0]) - static_cast<double>(by.mean));
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

// What becomes of a channel's values, which rule() says of a record and a channel; go_to() makes a
// rule that of another record.
template <bool kResidual>
struct Normalise {
  static constexpr int kIn = kResidual ? 2 : 1;  // x, residual
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
  __device__ Rule rule(std::int64_t, std::int64_t c) const {
    return {Normal(mean, variance, gamma, beta, epsilon, c), relu};
  }
  __device__ void go_to(std::int64_t, Rule&) const {}
};

// dx = a*g + b*(x - mean) + c, g = dy behind the activation; and 0 where a record is padding.
struct Backward {
  static constexpr int kIn = 2;  // x, dy
  const float *weight, *mean, *variance, *gamma, *beta, *dgamma, *dbeta;
  float epsilon;
  bool relu;
  std::int64_t records, pixels;
  float per_n = 0;

  struct Rule {
    Normal by;
    bool counts, relu;
    float a, b, c;
    __device__ float operator()(const float* v) const {
      if (!counts) return 0.0f;
      const float g = relu && by(v[0]) <= 0 ? 0.0f : v[1];
      return a * g + b * (v[0] - by.mean) + c;
    }
  };
  __device__ void begin() {
    const double n =
        static_cast<double>(count_records<kThreads>(weight, records)) * static_cast<double>(pixels);
    per_n = n == 0 ? 0.0f : static_cast<float>(1.0 / n);
  }
  __device__ Rule rule(std::int64_t record, std::int64_t c) const {
    const float rstd = 1.0f / sqrtf(variance[c] + epsilon), factor = gamma[c] * rstd;
    return {Normal(mean, variance, gamma, beta, epsilon, c),
            weight[record] > 0,
            relu,
            factor,
            -factor * rstd * (dgamma[c] * per_n),
            -factor * (dbeta[c] * per_n)};
  }
  __device__ void go_to(std::int64_t record, Rule& of) const { of.counts = weight[record] > 0; }
};

}  // namespace peal::cuda
