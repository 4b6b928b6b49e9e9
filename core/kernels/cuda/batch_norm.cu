// The sums of a channel are the work of one block: with
// fewer than some 64 channels of hundreds of MB not all multiprocessors are at work.
//
// Cost: statistics and batch_norm read x once each, backward reads x and dy twice; with a residual
// batch_norm reads it, too, and backward first makes its gradient, which reads y and dy.
#include <algorithm>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

// x (records, channels, pixels); a pack lies in one plane of pixels.
struct Planes {
  std::int64_t records, channels, pixels;
  Divider packs;       // of a plane
  Divider by_channel;  // planes of a record
  bool wide;
};

// What a channel's values become before an activation, the same in forward and backward.
struct Normal {
  float mean, factor, offset;

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

// A block for each channel; its threads take the packs of all records in turn.
template <int kWidth, int kBlock, class F>
__global__ void __launch_bounds__(kBlock)
    sum_planes(Arrays<const float, F::kIn> in, const float* weight, Planes of, F f) {
  constexpr int kAtOnce = (kWidth == 1 ? 8 : 4) / F::kIn;  // reads under way of each array
  const std::int64_t c = blockIdx.x, items = of.records * of.packs.value();
  const auto channel = f.channel(c);
  double first = 0, second = 0;
  Pack<kWidth> packs[kAtOnce][F::kIn];
  bool counts[kAtOnce];
  for (std::int64_t i = threadIdx.x; i < items; i += kAtOnce * kBlock) {
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const std::int64_t item = i + k * kBlock;
      counts[k] = false;
      if (item >= items) continue;
      const std::int64_t b = of.packs.divide(item);
      const std::int64_t at =
          (b * of.channels + c) * of.pixels + (item - b * of.packs.value()) * kWidth;
#pragma unroll
      for (int a = 0; a < F::kIn; ++a) packs[k][a] = read_pack<kWidth>(in.of[a] + at, of.wide);
      counts[k] = weight[b] > 0;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (!counts[k]) continue;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        float v[F::kIn];
#pragma unroll
        for (int a = 0; a < F::kIn; ++a) v[a] = packs[k][a].of[e];
        f.add(v, channel, first, second);
      }
    }
  }
  first = block_reduce<kBlock>(first);
  second = block_reduce<kBlock>(second);
  const double n = static_cast<double>(count_records<kBlock>(weight, of.records)) *
                   static_cast<double>(of.pixels);
  if (threadIdx.x == 0) f.finish(c, n, first, second);
}

// One value a channel and record: the channels lie side by side.
template <class F>
__global__ void __launch_bounds__(1024)
    sum_records(Arrays<const float, F::kIn> in, const float* weight, std::int64_t records,
                std::int64_t channels, Tile tile, F f) {
  extern __shared__ double shared[];
  const TileThread me(tile);
  const std::int64_t c = blockIdx.x * tile.columns + me.column;
  double first = 0, second = 0, n = 0;
  if (c < channels) {
    const auto channel = f.channel(c);
    const int step = static_cast<int>(tile.rows);
#pragma unroll 4
    for (std::int64_t b = me.row; b < records; b += step) {
      float v[F::kIn];
#pragma unroll
      for (int a = 0; a < F::kIn; ++a) v[a] = in.of[a][b * channels + c];
      if (weight[b] > 0) {
        f.add(v, channel, first, second);
        n += 1;
      }
    }
  }
  first = sum_tile(first, tile, shared);
  second = sum_tile(second, tile, shared);
  n = sum_tile(n, tile, shared);
  if (me.row == 0 && c < channels) f.finish(c, n, first, second);
}

Planes planes_of(const Tensor& x, int width, bool wide) {
  const std::int64_t records = x.shape[0], channels = x.shape[1];
  const std::int64_t pixels = x.numel() / (records * channels);
  return {records, channels, pixels, Divider(pixels / width), Divider(channels), wide};
}

// 4 where packs lie in one plane, which the shape alone decides.
int pack_width(const Tensor& x) {
  return x.numel() / (x.shape[0] * x.shape[1]) % kWide == 0 ? kWide : 1;
}

template <class F>
void sum_channels(const OnStream& on, const Tensor& x, const Arrays<const float, F::kIn>& in,
                  const Tensor& weight, bool wide, const F& f) {
  const int width = pack_width(x);
  const Planes of = planes_of(x, width, wide);
  const float* w = weight.as<float>();
  const auto blocks = static_cast<unsigned>(of.channels);
  if (of.pixels == 1) {
    const Tile tile = Tile::of(of.records, of.channels, 1);
    const auto threads = static_cast<unsigned>(tile.threads());
    sum_records<F>
        <<<blocks_for(of.channels, tile.columns), threads, threads * sizeof(double), on.stream>>>(
            in, w, of.records, of.channels, tile, f);
  } else if (width == kWide && of.records * of.packs.value() > 4096) {
    sum_planes<kWide, 1024, F><<<blocks, 1024, 0, on.stream>>>(in, w, of, f);
  } else if (width == kWide) {
    sum_planes<kWide, 256, F><<<blocks, 256, 0, on.stream>>>(in, w, of, f);
  } else if (of.records * of.packs.value() > 8192) {
    sum_planes<1, 1024, F><<<blocks, 1024, 0, on.stream>>>(in, w, of, f);
  } else {
    sum_planes<1, 256, F><<<blocks, 256, 0, on.stream>>>(in, w, of, f);
  }
}

// ---- Element by element ---------------------------------------------------------------------

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
};

template <int kWidth, class F>
__global__ void __launch_bounds__(kThreads)
    for_planes_kernel(Arrays<const float, F::kIn> in, Planes of, F f, float* out) {
  constexpr int kMine = 4 / F::kIn;
  const std::int64_t items = of.records * of.channels * of.packs.value();
  const std::int64_t start = static_cast<std::int64_t>(blockIdx.x) * kMine * kThreads + threadIdx.x;
  Pack<kWidth> packs[kMine][F::kIn];
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t i = start + k * kThreads;
    if (i >= items) continue;
#pragma unroll
    for (int a = 0; a < F::kIn; ++a) {
      packs[k][a] = read_pack<kWidth>(in.of[a] + i * kWidth, of.wide);
    }
  }
  f.begin();
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::int64_t i = start + k * kThreads;
    if (i >= items) continue;
    const std::int64_t plane = of.packs.divide(i), record = of.by_channel.divide(plane);
    const auto rule = f.rule(record, plane - record * of.channels);
    Pack<kWidth> to;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      float v[F::kIn];
#pragma unroll
      for (int a = 0; a < F::kIn; ++a) v[a] = packs[k][a].of[e];
      to.of[e] = rule(v);
    }
    write_pack<kWidth>(out + i * kWidth, to, of.wide);
  }
}

template <class F>
void for_planes(const OnStream& on, const Tensor& x, const Arrays<const float, F::kIn>& in,
                bool wide, const F& f, float* out) {
  const int width = pack_width(x);
  const Planes of = planes_of(x, width, wide);
  const unsigned blocks = blocks_for(x.numel() / width, kThreads * (4 / F::kIn));
  if (width == kWide) {
    for_planes_kernel<kWide, F><<<blocks, kThreads, 0, on.stream>>>(in, of, f, out);
  } else {
    for_planes_kernel<1, F><<<blocks, kThreads, 0, on.stream>>>(in, of, f, out);
  }
}

// ---- Running averages -----------------------------------------------------------------------

__global__ void __launch_bounds__(kThreads)
    contribution_kernel(const float* weight, std::int64_t records, std::int64_t channels,
                        std::int64_t pixels, const float* mean, const float* variance, float* out) {
  const double n =
      static_cast<double>(count_records<kThreads>(weight, records)) * static_cast<double>(pixels);
  const double unbiased = n > 1 ? n / (n - 1) : 1.0;  // one value has no unbiased variance
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (c < channels) {
    out[c] = static_cast<float>(n * mean[c]);
    out[channels + c] = static_cast<float>(n * unbiased * variance[c]);
  }
  if (c == 0) out[2 * channels] = static_cast<float>(n);
}

__global__ void __launch_bounds__(kThreads)
    running_kernel(const float* sums, std::int64_t channels, float momentum, float* mean,
                   float* variance) {
  const std::int64_t c = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const float n = sums[2 * channels];
  if (c >= channels || !(n > 0)) return;
  mean[c] = (1 - momentum) * mean[c] + momentum * (sums[c] / n);
  variance[c] = (1 - momentum) * variance[c] + momentum * (sums[channels + c] / n);
}

}  // namespace

void CudaKernels::batch_norm_statistics(Stream& s, const Tensor& x, const Tensor& weight,
                                        Tensor mean, Tensor variance) {
  if (x.numel() == 0) {
    fill(s, mean, 0);
    return fill(s, variance, 0);
  }
  const OnStream on(s);
  sum_channels(on, x, {{x.as<float>()}}, weight, aligned(x.data),
               Moments{.mean = mean.as<float>(), .variance = variance.as<float>()});
  check_launch("batch_norm_statistics");
}

void CudaKernels::batch_norm(Stream& s, const Tensor& x, const Tensor& mean, const Tensor& variance,
                             const Tensor& gamma, const Tensor& beta, float epsilon,
                             const Tensor& residual, Activation activation, Tensor y) {
  if (x.numel() == 0) return;
  const OnStream on(s);
  const bool relu = activation == Activation::relu, wide = aligned(x.data) && aligned(y.data);
  if (residual.empty()) {
    const Normalise<false> f{.mean = mean.as<float>(),
                             .variance = variance.as<float>(),
                             .gamma = gamma.as<float>(),
                             .beta = beta.as<float>(),
                             .epsilon = epsilon,
                             .relu = relu};
    for_planes(on, x, {{x.as<float>()}}, wide, f, y.as<float>());
  } else {
    const Normalise<true> f{.mean = mean.as<float>(),
                            .variance = variance.as<float>(),
                            .gamma = gamma.as<float>(),
                            .beta = beta.as<float>(),
                            .epsilon = epsilon,
                            .relu = relu};
    for_planes(on, x, {{x.as<float>(), residual.as<float>()}}, wide && aligned(residual.data), f,
               y.as<float>());
  }
  check_launch("batch_norm");
}

void CudaKernels::batch_norm_backward(Stream& s, const Tensor& x, const Tensor& weight,
                                      const Tensor& mean, const Tensor& variance,
                                      const Tensor& gamma, const Tensor& beta, float epsilon,
                                      const Tensor& y, Activation activation, const Tensor& dy,
                                      Tensor dx, Tensor dgamma, Tensor dbeta, Tensor dresidual) {
  if (x.numel() == 0) {
    fill(s, dgamma, 0);
    return fill(s, dbeta, 0);
  }
  const bool apart = !dresidual.empty();  // the activation's gradient is a pass of its own
  if (apart) activation_backward(s, activation, /*slope=*/0, {}, y, dy, dresidual);
  const Tensor& g = apart ? dresidual : dy;
  const bool relu = !apart && activation == Activation::relu;
  const OnStream on(s);
  const Arrays<const float, 2> in{{x.as<float>(), g.as<float>()}};
  const bool wide = aligned(x.data) && aligned(g.data);
  sum_channels(on, x, in, weight, wide,
               Gradients{.mean = mean.as<float>(),
                         .variance = variance.as<float>(),
                         .gamma = gamma.as<float>(),
                         .beta = beta.as<float>(),
                         .epsilon = epsilon,
                         .relu = relu,
                         .dgamma = dgamma.as<float>(),
                         .dbeta = dbeta.as<float>()});
  check_launch("batch_norm_backward, gamma and beta");
  const Backward f{.weight = weight.as<float>(),
                   .mean = mean.as<float>(),
                   .variance = variance.as<float>(),
                   .gamma = gamma.as<float>(),
                   .beta = beta.as<float>(),
                   .dgamma = dgamma.as<float>(),
                   .dbeta = dbeta.as<float>(),
                   .epsilon = epsilon,
                   .relu = relu,
                   .records = x.shape[0],
                   .pixels = x.numel() / (x.shape[0] * x.shape[1])};
  for_planes(on, x, in, wide && aligned(dx.data), f, dx.as<float>());
  check_launch("batch_norm_backward");
}

void CudaKernels::batch_norm_contribution(Stream& s, const Tensor& x, const Tensor& weight,
                                          const Tensor& mean, const Tensor& variance, Tensor out) {
  const std::int64_t records = x.shape[0], channels = x.shape[1];
  const std::int64_t pixels = x.numel() == 0 ? 0 : x.numel() / (records * channels);
  const OnStream on(s);
  contribution_kernel<<<blocks_for(std::max<std::int64_t>(channels, 1), kThreads), kThreads, 0,
                        on.stream>>>(weight.as<float>(), records, channels, pixels,
                                     mean.as<float>(), variance.as<float>(), out.as<float>());
  check_launch("batch_norm_contribution");
}

void CudaKernels::batch_norm_running(Stream& s, const Tensor& sums, float momentum,
                                     Tensor running_mean, Tensor running_variance) {
  const std::int64_t channels = running_mean.numel();
  if (channels == 0) return;
  const OnStream on(s);
  running_kernel<<<blocks_for(channels, kThreads), kThreads, 0, on.stream>>>(
      sums.as<float>(), channels, momentum, running_mean.as<float>(), running_variance.as<float>());
  check_launch("batch_norm_running");
}

}  // namespace peal::cuda
