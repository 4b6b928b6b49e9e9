// A channel's values lie in planes of pixels, or, where it has one value a record or in a layout of
// blocks, in columns: some channels side by side, row by row. Sums are taken in f64 in the order of
// memory, so that a layout decides their order.
//
// Cost in passes over memory: statistics read x; batch_norm reads x and the residual and writes y;
// backward reads x and dy twice and writes dx, with a residual it reads y and writes dresidual,
// too, and the second term of dy where it has one.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"
#include "core/kernels/cpu/pieces.h"
#include "core/kernels/layout.h"

namespace peal::cpu {
namespace {

// x as (records, channels / width, pixels, width); width 1: planes.
struct Extent {
  std::int64_t records, channels, pixels, width;
};

Extent extent_of(const Tensor& x) {
  const std::int64_t records = x.shape[0], channels = x.shape[1];
  const std::int64_t plane = records * channels;
  const std::int64_t pixels = plane == 0 ? 0 : x.numel() / plane;
  if (x.layout != nullptr) return {records, channels, pixels, x.layout->channel_block};
  return {records, channels, pixels, pixels == 1 ? channels : 1};
}

std::int64_t count_values(const Tensor& weight, const Extent& e) {
  std::int64_t records = 0;
  for (std::int64_t b = 0; b < e.records; ++b) records += weight.as<float>()[b] > 0 ? 1 : 0;
  return records * e.pixels;
}

constexpr std::int64_t kTile = 256;     // most channels at a time
constexpr std::int64_t kPiece = kRoom;  // most values at a time: they stay in the cache

// Some channels of a tensor: one plane, or columns.
struct Tile {
  std::int64_t first, channels;
  std::int64_t at;  // where they begin in a record
};

template <class Body>
void for_tiles(const Extent& e, Body body) {
  for (std::int64_t first = 0; first < e.channels;) {
    const std::int64_t lane = first % e.width;
    const Tile tile{first, std::min(kTile, e.width - lane), (first - lane) * e.pixels + lane};
    body(tile);
    first += tile.channels;
  }
}

// A piece of a tile in one record: `count` rows of `columns` values, `stride` apart. A row of one
// column and stride 1 is a pixel of a plane: there functions go along the pixels.
struct Rows {
  std::int64_t count, columns, stride;
  bool plane() const { return columns == 1 && stride == 1; }
  std::int64_t span() const { return (count - 1) * stride + columns; }
  bool has_gaps() const { return columns != stride && !plane(); }
};

// body(record, where the piece begins, its rows) for all pieces of a tile, of at most kPiece values
// from the first to the last.
template <class Body>
void for_pieces(const Extent& e, const Tile& tile, Body body) {
  const std::int64_t most = 1 + (kPiece - tile.channels) / e.width;
  for (std::int64_t b = 0; b < e.records; ++b) {
    for (std::int64_t p = 0; p < e.pixels; p += most) {
      const std::int64_t at = b * e.channels * e.pixels + tile.at + p * e.width;
      body(b, at, Rows{std::min(most, e.pixels - p), tile.channels, e.width});
    }
  }
}

struct Sums {
  double first[kTile] = {}, second[kTile] = {};
};

using Float8 = float __attribute__((vector_size(32)));
using Double8 = double __attribute__((vector_size(64)));

PEAL_INLINE void load_columns(const float* x, Double8& out) {
  Float8 values;
  std::memcpy(&values, x, sizeof values);
  out = __builtin_convertvector(values, Double8);
}

// x and x^2 of 8 * kParts columns
template <int kParts>
PEAL_INLINE void add_moments_of_eights(const float* x, const Rows& rows, Sums& sums) {
  Double8 sum[kParts], squares[kParts];
  std::memcpy(sum, sums.first, sizeof sum);
  std::memcpy(squares, sums.second, sizeof squares);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    for (int k = 0; k < kParts; ++k) {
      Double8 v;
      load_columns(x + i * rows.stride + 8 * k, v);
      sum[k] += v;
      squares[k] += v * v;
    }
  }
  std::memcpy(sums.first, sum, sizeof sum);
  std::memcpy(sums.second, squares, sizeof squares);
}

PEAL_CLONES void add_moments(const float* x, const Rows& rows, Sums& sums) {
  if (rows.plane()) {
    Lanes sum, squares;
    for_lanes(x, rows.count, [&](const Lanes& v) {
      add_lanes(v, sum);
      add_products(v, v, squares);
    });
    sums.first[0] += sum.total();
    sums.second[0] += squares.total();
    return;
  }
  if (rows.columns == 16) return add_moments_of_eights<2>(x, rows, sums);
  if (rows.columns == 8) return add_moments_of_eights<1>(x, rows, sums);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    for (std::int64_t c = 0; c < rows.columns; ++c) {
      const double v = x[i * rows.stride + c];
      sums.first[c] += v;
      sums.second[c] += v * v;
    }
  }
}

// g and g * (x - mean) of 8 * kParts columns
template <int kParts>
PEAL_INLINE void add_gradients_of_eights(const float* x, const float* g, const float* mean,
                                         const Rows& rows, Sums& sums) {
  Double8 sum[kParts], products[kParts], centre[kParts];
  std::memcpy(sum, sums.first, sizeof sum);
  std::memcpy(products, sums.second, sizeof products);
  for (int k = 0; k < kParts; ++k) load_columns(mean + 8 * k, centre[k]);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    for (int k = 0; k < kParts; ++k) {
      Double8 v, gradient;
      load_columns(x + i * rows.stride + 8 * k, v);
      load_columns(g + i * rows.stride + 8 * k, gradient);
      sum[k] += gradient;
      products[k] += gradient * (v - centre[k]);
    }
  }
  std::memcpy(sums.first, sum, sizeof sum);
  std::memcpy(sums.second, products, sizeof products);
}

PEAL_CLONES void add_gradients(const float* x, const float* g, const float* mean, const Rows& rows,
                               Sums& sums) {
  if (rows.plane()) {
    const double centre = mean[0];
    Lanes sum, products;
    for_lanes(x, g, rows.count, [&](const Lanes& v, const Lanes& gradient) {
      add_lanes(gradient, sum);
      for (int k = 0; k < Lanes::kParts; ++k) {
        products.part[k] += gradient.part[k] * (v.part[k] - centre);
      }
    });
    sums.first[0] += sum.total();
    sums.second[0] += products.total();
    return;
  }
  if (rows.columns == 16) return add_gradients_of_eights<2>(x, g, mean, rows, sums);
  if (rows.columns == 8) return add_gradients_of_eights<1>(x, g, mean, rows, sums);
  for (std::int64_t i = 0; i < rows.count; ++i) {
    for (std::int64_t c = 0; c < rows.columns; ++c) {
      const double v = x[i * rows.stride + c], gradient = g[i * rows.stride + c];
      sums.first[c] += gradient;
      sums.second[c] += gradient * (v - mean[c]);
    }
  }
}

template <class Columns, class F>
PEAL_INLINE void for_columns(const Rows& rows, Columns columns, float* __restrict out, F f) {
  for (std::int64_t i = 0; i < rows.count * rows.stride; i += rows.stride) {
    for (std::int64_t c = 0; c < columns; ++c) out[i + c] = f(c, i + c);
  }
}

// out = f(channel, index) for all values of a piece
template <class F>
PEAL_INLINE void for_values(const Rows& rows, float* __restrict out, F f) {
  if (rows.plane()) {
    for (std::int64_t i = 0; i < rows.count; ++i) out[i] = f(0, i);
    return;
  }
  using Sixteen = std::integral_constant<std::int64_t, 16>;
  using Eight = std::integral_constant<std::int64_t, 8>;
  if (rows.columns == 16) return for_columns(rows, Sixteen(), out, f);
  if (rows.columns == 8) return for_columns(rows, Eight(), out, f);
  for_columns(rows, rows.columns, out, f);
}

// (x - mean) * factor + offset, by channel of a tile
struct Normal {
  float mean[kTile], factor[kTile], offset[kTile], rstd[kTile];

  Normal(const Tile& tile, const Tensor& means, const Tensor& variance, const Tensor& gamma,
         const Tensor& beta, float epsilon) {
    for (std::int64_t c = 0; c < tile.channels; ++c) {
      const std::int64_t from = tile.first + c;
      const double spread = static_cast<double>(variance.as<float>()[from]) + epsilon;
      rstd[c] = static_cast<float>(1.0 / std::sqrt(spread));
      mean[c] = means.as<float>()[from];
      factor[c] = gamma.as<float>()[from] * rstd[c];
      offset[c] = beta.as<float>()[from];
    }
  }
  PEAL_INLINE float of(float x, std::int64_t c) const {
    return (x - mean[c]) * factor[c] + offset[c];
  }
};

// Comparisons are turned so that a NaN passes through.
PEAL_INLINE float relu_of(float v) {
  return v < 0 ? 0.0f : v;
}

PEAL_CLONES void normalise(const float* __restrict x, const Rows& rows, const Normal& by,
                           const float* __restrict residual, bool relu, float* __restrict y) {
  using Index = std::int64_t;
  if (residual == nullptr && !relu) {
    return for_values(rows, y, [&](Index c, Index i) PEAL_INLINED { return by.of(x[i], c); });
  }
  if (residual == nullptr) {
    return for_values(rows, y,
                      [&](Index c, Index i) PEAL_INLINED { return relu_of(by.of(x[i], c)); });
  }
  if (!relu) {
    return for_values(rows, y,
                      [&](Index c, Index i) PEAL_INLINED { return by.of(x[i], c) + residual[i]; });
  }
  for_values(rows, y,
             [&](Index c, Index i) PEAL_INLINED { return relu_of(by.of(x[i], c) + residual[i]); });
}

// g = dy where normalise gave more than 0. What is read on a condition would not vectorise.
PEAL_CLONES void mask_by_input(const float* __restrict x, const float* __restrict dy,
                               const Rows& rows, const Normal& by, float* __restrict g) {
  for_values(rows, g, [&](std::int64_t c, std::int64_t i) PEAL_INLINED {
    const float gradient = dy[i];
    return by.of(x[i], c) <= 0 ? 0.0f : gradient;
  });
}

PEAL_CLONES void mask_by_output(const float* __restrict y, const float* __restrict dy,
                                const Rows& rows, float* __restrict g) {
  for_values(rows, g, [&](std::int64_t, std::int64_t i) PEAL_INLINED {
    const float gradient = dy[i];
    return y[i] <= 0 ? 0.0f : gradient;
  });
}

PEAL_CLONES void mask_sum_by_output(const float* __restrict y, const float* __restrict dy,
                                    const float* __restrict more, const Rows& rows,
                                    float* __restrict g) {
  for_values(rows, g, [&](std::int64_t, std::int64_t i) PEAL_INLINED {
    const float gradient = dy[i] + more[i];
    return y[i] <= 0 ? 0.0f : gradient;
  });
}

PEAL_CLONES void add_values(const float* __restrict a, const float* __restrict b, const Rows& rows,
                            float* __restrict to) {
  for_values(rows, to, [&](std::int64_t, std::int64_t i) PEAL_INLINED { return a[i] + b[i]; });
}

PEAL_CLONES void copy_values(const float* __restrict from, const Rows& rows, float* __restrict to) {
  for_values(rows, to, [&](std::int64_t, std::int64_t i) PEAL_INLINED { return from[i]; });
}

// dx = dy * g + x * (x - mean) + constant, by channel of a tile
struct Linear {
  float dy[kTile], x[kTile], constant[kTile];

  // sums: dbeta and dgamma of each channel, over n values.
  Linear(const Tile& tile, const Normal& by, const Tensor& dgamma, const Tensor& dbeta,
         float per_n) {
    for (std::int64_t c = 0; c < tile.channels; ++c) {
      const std::int64_t from = tile.first + c;
      dy[c] = by.factor[c];
      x[c] = -by.factor[c] * by.rstd[c] * (dgamma.as<float>()[from] * per_n);
      constant[c] = -by.factor[c] * (dbeta.as<float>()[from] * per_n);
    }
  }
};

PEAL_CLONES void give_gradient(const float* __restrict x, const float* __restrict g,
                               const Rows& rows, const Normal& by, const Linear& rule,
                               float* __restrict dx) {
  for_values(rows, dx, [&](std::int64_t c, std::int64_t i) PEAL_INLINED {
    return rule.dy[c] * g[i] + rule.x[c] * (x[i] - by.mean[c]) + rule.constant[c];
  });
}

PEAL_CLONES void give_zeros(const Rows& rows, float* __restrict dx) {
  for_values(rows, dx, [](std::int64_t, std::int64_t) PEAL_INLINED { return 0.0f; });
}

}  // namespace

void CpuKernels::batch_norm_statistics(Stream&, const Tensor& x, const Tensor& weight, Tensor mean,
                                       Tensor variance, Tensor contribution) {
  const Extent e = extent_of(x);
  const auto n = static_cast<double>(count_values(weight, e));
  for_tiles(e, [&](const Tile& tile) {
    Sums sums;
    for_pieces(e, tile, [&](std::int64_t b, std::int64_t at, const Rows& rows) {
      if (weight.as<float>()[b] > 0) add_moments(Reads(x, at, rows.span()), rows, sums);
    });
    for (std::int64_t c = 0; c < tile.channels; ++c) {
      const double average = n == 0 ? 0.0 : sums.first[c] / n;
      const double spread = n == 0 ? 0.0 : sums.second[c] / n - average * average;
      mean.as<float>()[tile.first + c] = static_cast<float>(average);
      variance.as<float>()[tile.first + c] = spread < 0 ? 0.0f : static_cast<float>(spread);
    }
  });
  if (contribution.empty()) return;
  const double unbiased = n > 1 ? n / (n - 1) : 1.0;  // one value has no unbiased variance
  auto* const sums = contribution.as<float>();
  for (std::int64_t c = 0; c < e.channels; ++c) {
    sums[c] = static_cast<float>(n * mean.as<float>()[c]);
    sums[e.channels + c] = static_cast<float>(n * unbiased * variance.as<float>()[c]);
  }
  sums[2 * e.channels] = static_cast<float>(n);
}

void CpuKernels::batch_norm(Stream&, const Tensor& x, const Tensor& mean, const Tensor& variance,
                            const Tensor& gamma, const Tensor& beta, float epsilon,
                            const Tensor& residual, Activation activation, Tensor y) {
  const Extent e = extent_of(x);
  const bool relu = activation == Activation::relu;
  for_tiles(e, [&](const Tile& tile) {
    const Normal by(tile, mean, variance, gamma, beta, epsilon);
    for_pieces(e, tile, [&](std::int64_t, std::int64_t at, const Rows& rows) {
      const std::int64_t n = rows.span();
      normalise(Reads(x, at, n), rows, by, Reads(residual, at, n), relu,
                Writes(y, at, n, /*keep=*/rows.has_gaps()));
    });
  });
}

void CpuKernels::batch_norm_backward(Stream&, const Tensor& x, const Tensor& weight,
                                     const Tensor& mean, const Tensor& variance,
                                     const Tensor& gamma, const Tensor& beta, float epsilon,
                                     const Tensor& y, Activation activation, const Tensor& dy,
                                     const Tensor& more_dy, Tensor dx, Tensor dgamma, Tensor dbeta,
                                     Tensor dresidual) {
  const Extent e = extent_of(x);
  const bool relu = activation == Activation::relu;
  const std::int64_t n = count_values(weight, e);
  const float per_n = n == 0 ? 0.0f : static_cast<float>(1.0 / static_cast<double>(n));
  float masked[kPiece];
  for_tiles(e, [&](const Tile& tile) {
    const Normal by(tile, mean, variance, gamma, beta, epsilon);
    // use(x, the gradient behind the activation); `first`: of two visits to a piece.
    const auto visit = [&](std::int64_t at, const Rows& rows, bool first, auto use) {
      const std::int64_t span = rows.span();
      const Reads values(x, at, span);
      if (!dresidual.empty() && !first) return use(values, Reads(dresidual, at, span));
      const Reads given(dy, at, span);
      const float* from = given;
      if (dy.data == dresidual.data) {  // in place
        std::memcpy(masked, given, static_cast<std::size_t>(span) * sizeof(float));
        from = masked;
      }
      if (!more_dy.empty()) {
        const Reads more(more_dy, at, span);
        {
          const Writes sum(dresidual, at, span, /*keep=*/rows.has_gaps());
          if (relu) mask_sum_by_output(Reads(y, at, span), from, more, rows, sum);
          if (!relu) add_values(from, more, rows, sum);
        }
        return use(values, Reads(dresidual, at, span));  // as they are stored
      }
      if (!dresidual.empty()) {
        const Writes kept(dresidual, at, span, /*keep=*/rows.has_gaps());
        if (relu) mask_by_output(Reads(y, at, span), from, rows, kept);
        if (!relu) copy_values(from, rows, kept);
        return use(values, kept);
      }
      if (!relu) return use(values, from);
      mask_by_input(values, from, rows, by, masked);
      use(values, masked);
    };
    Sums sums;
    for_pieces(e, tile, [&](std::int64_t b, std::int64_t at, const Rows& rows) {
      const bool counts = weight.as<float>()[b] > 0;
      if (!counts && dresidual.empty()) return;
      visit(at, rows, /*first=*/true, [&](const float* values, const float* g) {
        if (counts) add_gradients(values, g, by.mean, rows, sums);
      });
    });
    for (std::int64_t c = 0; c < tile.channels; ++c) {
      const std::int64_t to = tile.first + c;
      const double spread = static_cast<double>(variance.as<float>()[to]) + epsilon;
      dbeta.as<float>()[to] = static_cast<float>(sums.first[c]);
      dgamma.as<float>()[to] = static_cast<float>(sums.second[c] / std::sqrt(spread));
    }
    const Linear rule(tile, by, dgamma, dbeta, per_n);
    for_pieces(e, tile, [&](std::int64_t b, std::int64_t at, const Rows& rows) {
      const Writes to(dx, at, rows.span(), /*keep=*/rows.has_gaps());
      if (weight.as<float>()[b] <= 0) return give_zeros(rows, to);
      visit(at, rows, /*first=*/false, [&](const float* values, const float* g) {
        give_gradient(values, g, rows, by, rule, to);
      });
    });
  });
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
