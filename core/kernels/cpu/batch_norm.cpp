// Sums are taken in f64, in the order of memory: row by row for images, with the channels side by
// side when a channel has one value a record.
#include <algorithm>
#include <cmath>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"

namespace peal::cpu {
namespace {

struct Extent {
  std::int64_t records, channels, pixels;
};

Extent extent_of(const Tensor& x) {
  const std::int64_t records = x.shape[0], channels = x.shape[1];
  const std::int64_t plane = records * channels;
  return {records, channels, plane == 0 ? 0 : x.numel() / plane};
}

std::int64_t count_values(const Tensor& weight, const Extent& e) {
  std::int64_t records = 0;
  for (std::int64_t b = 0; b < e.records; ++b) records += weight.as<float>()[b] > 0 ? 1 : 0;
  return records * e.pixels;
}

constexpr std::int64_t kTile = 256;  // channels side by side

struct Sums {
  double first[kTile], second[kTile];
};

// x and x^2 of n channels; x, as dy below, begins at the first of them.
PEAL_CLONES void sum_moments(const float* x, const float* weight, const Extent& e, std::int64_t n,
                             Sums& sums) {
  for (std::int64_t c = 0; c < n; ++c) sums.first[c] = sums.second[c] = 0;
  for (std::int64_t b = 0; b < e.records; ++b) {
    if (weight[b] <= 0) continue;
    const float* row = x + b * e.channels * e.pixels;
    if (e.pixels == 1) {
      for (std::int64_t c = 0; c < n; ++c) {
        const double v = row[c];
        sums.first[c] += v;
        sums.second[c] += v * v;
      }
      continue;
    }
    for (std::int64_t c = 0; c < n; ++c) {
      Lanes sum, squares;
      for_lanes(row + c * e.pixels, e.pixels, [&](const Lanes& v) {
        add_lanes(v, sum);
        add_products(v, v, squares);
      });
      sums.first[c] += sum.total();
      sums.second[c] += squares.total();
    }
  }
}

// dy and dy * (x - mean) of n channels
PEAL_CLONES void sum_gradients(const float* x, const float* dy, const float* weight,
                               const float* mean, const Extent& e, std::int64_t n, Sums& sums) {
  for (std::int64_t c = 0; c < n; ++c) sums.first[c] = sums.second[c] = 0;
  for (std::int64_t b = 0; b < e.records; ++b) {
    if (weight[b] <= 0) continue;
    const float* row = x + b * e.channels * e.pixels;
    const float* gradient = dy + b * e.channels * e.pixels;
    if (e.pixels == 1) {
      for (std::int64_t c = 0; c < n; ++c) {
        const double g = gradient[c];
        sums.first[c] += g;
        sums.second[c] += g * (static_cast<double>(row[c]) - mean[c]);
      }
      continue;
    }
    for (std::int64_t c = 0; c < n; ++c) {
      const double centre = mean[c];
      Lanes sum, products;
      for_lanes(row + c * e.pixels, gradient + c * e.pixels, e.pixels,
                [&](const Lanes& v, const Lanes& g) {
                  add_lanes(g, sum);
                  for (int k = 0; k < Lanes::kParts; ++k) {
                    products.part[k] += g.part[k] * (v.part[k] - centre);
                  }
                });
      sums.first[c] += sum.total();
      sums.second[c] += products.total();
    }
  }
}

// sum(first channel, channels, sums) for each tile, then take(channel, its two sums).
template <class Sum, class Take>
void for_channels(const Extent& e, Sum sum, Take take) {
  Sums sums;
  for (std::int64_t first = 0; first < e.channels; first += kTile) {
    const std::int64_t n = std::min(kTile, e.channels - first);
    sum(first, n, sums);
    for (std::int64_t c = 0; c < n; ++c) take(first + c, sums.first[c], sums.second[c]);
  }
}

float inverse_deviation(float variance, float epsilon) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(variance) + epsilon));
}

// y = (x - mean) * factor + offset over one channel of one record
PEAL_CLONES void normalise_row(const float* __restrict x, float mean, float factor, float offset,
                               float* __restrict y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = (x[i] - mean) * factor + offset;
}

PEAL_CLONES void normalise_channels(const float* __restrict x, const float* __restrict mean,
                                    const float* __restrict variance, const float* __restrict gamma,
                                    const float* __restrict beta, float epsilon,
                                    float* __restrict y, std::int64_t n) {
  for (std::int64_t c = 0; c < n; ++c) {
    const float factor = gamma[c] / std::sqrt(variance[c] + epsilon);
    y[c] = (x[c] - mean[c]) * factor + beta[c];
  }
}

// dx = a*dy + b*(x - mean) + c
struct Linear {
  float dy, x, constant;
};

// sums: dbeta and dgamma of the channel, over n values.
PEAL_INLINE Linear gradient_rule(float gamma, float rstd, float dbeta, float dgamma, float per_n) {
  const float factor = gamma * rstd;
  return {factor, -factor * rstd * (dgamma * per_n), -factor * (dbeta * per_n)};
}

PEAL_CLONES void gradient_row(const float* __restrict x, const float* __restrict dy, float mean,
                              const Linear& by, float* __restrict dx, std::int64_t n) {
  const Linear a = by;
  for (std::int64_t i = 0; i < n; ++i) dx[i] = a.dy * dy[i] + a.x * (x[i] - mean) + a.constant;
}

PEAL_CLONES void gradient_channels(const float* __restrict x, const float* __restrict dy,
                                   const float* __restrict mean, const float* __restrict variance,
                                   const float* __restrict gamma, const float* __restrict dgamma,
                                   const float* __restrict dbeta, float epsilon, float per_n,
                                   float* __restrict dx, std::int64_t n) {
  for (std::int64_t c = 0; c < n; ++c) {
    const float rstd = 1.0f / std::sqrt(variance[c] + epsilon);
    const Linear a = gradient_rule(gamma[c], rstd, dbeta[c], dgamma[c], per_n);
    dx[c] = a.dy * dy[c] + a.x * (x[c] - mean[c]) + a.constant;
  }
}

}  // namespace

void CpuKernels::batch_norm_statistics(Stream&, const Tensor& x, const Tensor& weight, Tensor mean,
                                       Tensor variance) {
  const Extent e = extent_of(x);
  const float* w = weight.as<float>();
  const std::int64_t n = count_values(weight, e);
  for_channels(
      e,
      [&](std::int64_t first, std::int64_t channels, Sums& sums) {
        sum_moments(x.as<float>() + first * e.pixels, w, e, channels, sums);
      },
      [&](std::int64_t c, double sum, double squares) {
        const double average = n == 0 ? 0.0 : sum / static_cast<double>(n);
        const double spread = n == 0 ? 0.0 : squares / static_cast<double>(n) - average * average;
        mean.as<float>()[c] = static_cast<float>(average);
        variance.as<float>()[c] = spread < 0 ? 0.0f : static_cast<float>(spread);
      });
}

void CpuKernels::batch_norm(Stream&, const Tensor& x, const Tensor& mean, const Tensor& variance,
                            const Tensor& gamma, const Tensor& beta, float epsilon, Tensor y) {
  const Extent e = extent_of(x);
  const float* m = mean.as<float>();
  for (std::int64_t b = 0; b < e.records; ++b) {
    const float* from = x.as<float>() + b * e.channels * e.pixels;
    float* to = y.as<float>() + b * e.channels * e.pixels;
    if (e.pixels == 1) {
      normalise_channels(from, m, variance.as<float>(), gamma.as<float>(), beta.as<float>(),
                         epsilon, to, e.channels);
      continue;
    }
    for (std::int64_t c = 0; c < e.channels; ++c) {
      const float factor =
          gamma.as<float>()[c] * inverse_deviation(variance.as<float>()[c], epsilon);
      normalise_row(from + c * e.pixels, m[c], factor, beta.as<float>()[c], to + c * e.pixels,
                    e.pixels);
    }
  }
}

void CpuKernels::batch_norm_backward(Stream&, const Tensor& x, const Tensor& weight,
                                     const Tensor& mean, const Tensor& variance,
                                     const Tensor& gamma, float epsilon, const Tensor& dy,
                                     Tensor dx, Tensor dgamma, Tensor dbeta) {
  const Extent e = extent_of(x);
  const float* w = weight.as<float>();
  const float* m = mean.as<float>();
  const float* var = variance.as<float>();
  for_channels(
      e,
      [&](std::int64_t first, std::int64_t channels, Sums& sums) {
        const std::int64_t at = first * e.pixels;
        sum_gradients(x.as<float>() + at, dy.as<float>() + at, w, m + first, e, channels, sums);
      },
      [&](std::int64_t c, double sum, double products) {
        dbeta.as<float>()[c] = static_cast<float>(sum);
        dgamma.as<float>()[c] =
            static_cast<float>(products / std::sqrt(static_cast<double>(var[c]) + epsilon));
      });
  const std::int64_t n = count_values(weight, e);
  const float per_n = n == 0 ? 0.0f : static_cast<float>(1.0 / static_cast<double>(n));
  for (std::int64_t b = 0; b < e.records; ++b) {
    const std::int64_t at = b * e.channels * e.pixels;
    float* to = dx.as<float>() + at;
    if (w[b] <= 0) {
      std::fill_n(to, e.channels * e.pixels, 0.0f);
    } else if (e.pixels == 1) {
      gradient_channels(x.as<float>() + at, dy.as<float>() + at, m, var, gamma.as<float>(),
                        dgamma.as<float>(), dbeta.as<float>(), epsilon, per_n, to, e.channels);
    } else {
      for (std::int64_t c = 0; c < e.channels; ++c) {
        const std::int64_t row = at + c * e.pixels;
        const Linear rule = gradient_rule(gamma.as<float>()[c], inverse_deviation(var[c], epsilon),
                                          dbeta.as<float>()[c], dgamma.as<float>()[c], per_n);
        gradient_row(x.as<float>() + row, dy.as<float>() + row, m[c], rule, dx.as<float>() + row,
                     e.pixels);
      }
    }
  }
}

void CpuKernels::batch_norm_contribution(Stream&, const Tensor& x, const Tensor& weight,
                                         const Tensor& mean, const Tensor& variance, Tensor out) {
  const Extent e = extent_of(x);
  const auto n = static_cast<double>(count_values(weight, e));
  const double unbiased = n > 1 ? n / (n - 1) : 1.0;  // one value has no unbiased variance
  float* sums = out.as<float>();
  for (std::int64_t c = 0; c < e.channels; ++c) {
    sums[c] = static_cast<float>(n * mean.as<float>()[c]);
    sums[e.channels + c] = static_cast<float>(n * unbiased * variance.as<float>()[c]);
  }
  sums[2 * e.channels] = static_cast<float>(n);
}

void CpuKernels::batch_norm_running(Stream&, const Tensor& sums, float momentum,
                                    Tensor running_mean, Tensor running_variance) {
  const std::int64_t channels = running_mean.numel();
  const float* s = sums.as<float>();
  const float n = s[2 * channels];
  if (!(n > 0)) return;
  for (std::int64_t c = 0; c < channels; ++c) {
    float& mean = running_mean.as<float>()[c];
    float& variance = running_variance.as<float>()[c];
    mean = (1 - momentum) * mean + momentum * (s[c] / n);
    variance = (1 - momentum) * variance + momentum * (s[channels + c] / n);
  }
}

}  // namespace peal::cpu
