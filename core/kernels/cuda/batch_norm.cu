// Of row-major tensors the sums of a channel are the work of one block: with fewer than some 64
// channels of hundreds of MB not all multiprocessors are at work.
//
// Cost: statistics and batch_norm read x once each, backward reads x and dy twice; with a residual
// batch_norm reads it, too, and backward first makes its gradient, which reads y and dy. Where
// channels lie side by side that is part of the first of its two passes.
#include <algorithm>

#include "core/kernels/cuda/batch_norm_columns.cuh"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal::cuda {
namespace {

// x (records, channels, pixels); a pack lies in one plane of pixels.
struct Planes {
  std::int64_t records, channels, pixels;
  Divider packs;       // of a plane
  Divider by_channel;  // planes of a record
  bool wide;
};

// ---- Sums over records and pixels -----------------------------------------------------------

// A block for each channel; its threads take the packs of all records in turn.
template <int kWidth, int kBlock, class F, typename T>
__global__ void __launch_bounds__(kBlock)
    sum_planes(Arrays<const T, F::kIn> in, const float* weight, Planes of, F f) {
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
      RunOf<T> one = 0, two = 0;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        float v[F::kIn];
#pragma unroll
        for (int a = 0; a < F::kIn; ++a) v[a] = packs[k][a].of[e];
        if constexpr (std::is_same_v<T, float>) {
          f.add(v, channel, first, second);
        } else {
          f.add(v, channel, one, two);
        }
      }
      first += one;
      second += two;
    }
  }
  first = block_reduce<kBlock>(first);
  second = block_reduce<kBlock>(second);
  const double n = static_cast<double>(count_records<kBlock>(weight, of.records)) *
                   static_cast<double>(of.pixels);
  if (threadIdx.x == 0) f.finish(c, n, first, second);
}

// One value a channel and record: the channels lie side by side.
template <class F, typename T>
__global__ void __launch_bounds__(1024)
    sum_records(Arrays<const T, F::kIn> in, const float* weight, std::int64_t records,
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
      for (int a = 0; a < F::kIn; ++a) v[a] = widen(in.of[a][b * channels + c]);
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

// 16 bytes where packs lie in one plane, which the shape alone decides.
template <typename T>
int pack_width(const Tensor& x) {
  return x.numel() / (x.shape[0] * x.shape[1]) % kWideOf<T> == 0 ? kWideOf<T> : 1;
}

template <class F, typename T>
void sum_channels(Stream& s, const OnStream& on, const Tensor& x, const Arrays<const T, F::kIn>& in,
                  const Tensor& weight, bool wide, const F& f) {
  constexpr int kPack = kWideOf<T>;
  if (x.layout != nullptr) return sum_columns(s, on, columns_of(x), in, weight, wide, f);
  const int width = pack_width<T>(x);
  const Planes of = planes_of(x, width, wide);
  const float* w = weight.as<float>();
  const auto blocks = static_cast<unsigned>(of.channels);
  if (of.pixels == 1) {
    const Tile tile = Tile::of(of.records, of.channels, 1, 32 / static_cast<int>(sizeof(T)));
    const auto threads = static_cast<unsigned>(tile.threads());
    sum_records<F, T>
        <<<blocks_for(of.channels, tile.columns), threads, threads * sizeof(double), on.stream>>>(
            in, w, of.records, of.channels, tile, f);
  } else if (width == kPack && of.records * of.packs.value() > 4096) {
    sum_planes<kPack, 1024, F><<<blocks, 1024, 0, on.stream>>>(in, w, of, f);
  } else if (width == kPack) {
    sum_planes<kPack, 256, F><<<blocks, 256, 0, on.stream>>>(in, w, of, f);
  } else if (of.records * of.packs.value() > 8192) {
    sum_planes<1, 1024, F><<<blocks, 1024, 0, on.stream>>>(in, w, of, f);
  } else {
    sum_planes<1, 256, F><<<blocks, 256, 0, on.stream>>>(in, w, of, f);
  }
}

// ---- Element by element ---------------------------------------------------------------------

template <int kWidth, class F, typename T>
__global__ void __launch_bounds__(kThreads)
    for_planes_kernel(Arrays<const T, F::kIn> in, Planes of, F f, T* out) {
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
    Pack<kWidth> to = {};
    if (f.counts(record)) {
      const auto rule = f.rule(plane - record * of.channels);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        float v[F::kIn];
#pragma unroll
        for (int a = 0; a < F::kIn; ++a) v[a] = packs[k][a].of[e];
        to.of[e] = rule(v);
      }
    }
    write_pack<kWidth>(out + i * kWidth, to, of.wide);
  }
}

template <class F, typename T>
void for_planes(const OnStream& on, const Tensor& x, const Arrays<const T, F::kIn>& in, bool wide,
                const F& f, T* out) {
  if (x.layout != nullptr) return for_columns(on, columns_of(x), in, wide, f, out);
  const int width = pack_width<T>(x);
  const Planes of = planes_of(x, width, wide);
  const unsigned blocks = blocks_for(x.numel() / width, kThreads * (4 / F::kIn));
  if (width == kWideOf<T>) {
    for_planes_kernel<kWideOf<T>, F><<<blocks, kThreads, 0, on.stream>>>(in, of, f, out);
  } else {
    for_planes_kernel<1, F><<<blocks, kThreads, 0, on.stream>>>(in, of, f, out);
  }
}

// ---- The gradient before the activation ------------------------------------------------------

struct MaskedSum {  // of y and two terms
  __device__ void operator()(const float* from, float* to) const {
    *to = from[0] <= 0 ? 0.0f : from[1] + from[2];
  }
};

// ---- Running averages -----------------------------------------------------------------------

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
                                        Tensor mean, Tensor variance, Tensor contribution) {
  if (x.numel() == 0) {
    fill(s, mean, 0);
    fill(s, variance, 0);
    if (!contribution.empty()) fill(s, contribution, 0);
    return;
  }
  const OnStream on(s);
  const Moments f{.mean = mean.as<float>(),
                  .variance = variance.as<float>(),
                  .contribution = contribution.as<float>(),
                  .channels = x.shape[1]};
  for_stored(x.dtype, [&]<typename T>(Stored<T>) {
    const Arrays<const T, 1> in{{x.as<T>()}};
    sum_channels(s, on, x, in, weight, aligned(x.data), f);
  });
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
    for_stored(x.dtype, [&]<typename T>(Stored<T>) {
      const Arrays<const T, 1> in{{x.as<T>()}};
      for_planes(on, x, in, wide, f, y.as<T>());
    });
  } else {
    const Normalise<true> f{.mean = mean.as<float>(),
                            .variance = variance.as<float>(),
                            .gamma = gamma.as<float>(),
                            .beta = beta.as<float>(),
                            .epsilon = epsilon,
                            .relu = relu};
    for_stored(x.dtype, [&]<typename T>(Stored<T>) {
      const Arrays<const T, 2> in{{x.as<T>(), residual.as<T>()}};
      for_planes(on, x, in, wide && aligned(residual.data), f, y.as<T>());
    });
  }
  check_launch("batch_norm");
}

void CudaKernels::give_dresidual(Stream& s, bool relu, const Tensor& y, const Tensor& dy,
                                 const Tensor& more_dy, Tensor dresidual) {
  if (more_dy.empty()) {
    const Activation kind = relu ? Activation::relu : Activation::none;
    return activation_backward(s, kind, /*slope=*/0, {}, y, dy, dresidual);
  }
  if (!relu) return binary(s, BinaryOp::add, dy, more_dy, dresidual);
  for_stored(y.dtype, [&]<typename T>(Stored<T>) {
    for_elements<3, 1, T>(s, "batch_norm_backward, residual", y.numel(),
                          {y.as<T>(), dy.as<T>(), more_dy.as<T>()}, {dresidual.as<T>()},
                          MaskedSum{});
  });
}

void CudaKernels::batch_norm_backward(Stream& s, const Tensor& x, const Tensor& weight,
                                      const Tensor& mean, const Tensor& variance,
                                      const Tensor& gamma, const Tensor& beta, float epsilon,
                                      const Tensor& y, Activation activation, const Tensor& dy,
                                      const Tensor& more_dy, Tensor dx, Tensor dgamma, Tensor dbeta,
                                      Tensor dresidual) {
  if (x.numel() == 0) {
    fill(s, dgamma, 0);
    return fill(s, dbeta, 0);
  }
  const bool relu = activation == Activation::relu, apart = !dresidual.empty();
  const bool at_once = apart && relu && x.layout != nullptr;  // dresidual and sums
  if (apart && !at_once) give_dresidual(s, relu, y, dy, more_dy, dresidual);
  const OnStream on(s);
  const bool aligned_terms = aligned(dy.data) && aligned(more_dy.data) && aligned(y.data);
  const bool wide = aligned(x.data) && (apart ? aligned(dresidual.data) : aligned(dy.data)) &&
                    (!at_once || aligned_terms);
  const auto sums = [&]<class F>(F f) {
    f.mean = mean.as<float>(), f.variance = variance.as<float>();
    f.gamma = gamma.as<float>(), f.beta = beta.as<float>(), f.epsilon = epsilon;
    f.dgamma = dgamma.as<float>(), f.dbeta = dbeta.as<float>();
    return f;
  };
  for_stored(x.dtype, [&]<typename T>(Stored<T>) {
    const T* const values = x.as<T>();
    const Arrays<const T, 2> in{{values, apart ? dresidual.as<T>() : dy.as<T>()}};
    const auto pass = [&]<Mask kMask>() {
      const Backward<T, kMask> f{.weight = weight.as<float>(),
                                 .mean = mean.as<float>(),
                                 .variance = variance.as<float>(),
                                 .gamma = gamma.as<float>(),
                                 .beta = beta.as<float>(),
                                 .dgamma = dgamma.as<float>(),
                                 .dbeta = dbeta.as<float>(),
                                 .epsilon = epsilon,
                                 .records = x.shape[0],
                                 .pixels = x.numel() / (x.shape[0] * x.shape[1])};
      if (!at_once) sum_channels(s, on, x, in, weight, wide, sums(Gradients<T, kMask>{}));
      check_launch("batch_norm_backward, gamma and beta");
      for_planes(on, x, in, wide && aligned(dx.data), f, dx.as<T>());
    };
    if (at_once && more_dy.empty()) {
      auto f = sums(Gradients<T, Mask::by_y>{});
      f.out = dresidual.as<T>();
      const Arrays<const T, 3> from{{values, dy.as<T>(), y.as<T>()}};
      sum_columns(s, on, columns_of(x), from, weight, wide, f);
    } else if (at_once) {
      auto f = sums(Gradients<T, Mask::by_y, 2>{});
      f.out = dresidual.as<T>();
      const Arrays<const T, 4> from{{values, dy.as<T>(), more_dy.as<T>(), y.as<T>()}};
      sum_columns(s, on, columns_of(x), from, weight, wide, f);
    }
    if (relu && !apart) {
      pass.template operator()<Mask::by_x>();
    } else {
      pass.template operator()<Mask::none>();
    }
  });
  check_launch("batch_norm_backward");
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
