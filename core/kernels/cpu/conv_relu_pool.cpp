// Convolution, relu and 2x2 max-pooling of one record after the other, for first layers.
//
// Vectors run over pooled positions. Position p looks at a patch of (K+1)*(K+1) inputs, and
// patches (vectors, C, (K+1)*(K+1), 16) holds input j of the patches of 16 positions side by side.
// All four convolution outputs of p, and the gradients of all K*K weights, are then sums over j in
// the same lane, so that nothing of the convolution's size is ever stored. Forward keeps three bits
// a position: which column and which row of the 2x2 window won, and whether relu let it through.
// GCC 12 takes the deliberately undefined operands inside its own intrinsics for mistakes.
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "core/device/buffer.h"
#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {
namespace {

constexpr std::int64_t kLanes = 16;
constexpr std::size_t kMostPlaneBytes = std::size_t{512} << 10;  // must stay in the L2 cache

constexpr std::int64_t whole_vectors(std::int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

// Bit l is position 16*v + l of vector v.
struct Winners {
  std::uint16_t column, row, alive;
};

struct Geometry {
  Geometry(const Conv2dSpec& conv, const Pool2dSpec& pool)
      : records(conv.x[0]),
        channels(conv.x[1]),
        height(conv.x[2]),
        width(conv.x[3]),
        top(conv.padding[0]),
        left(conv.padding[1]),
        filters(conv.w[0]),
        kernel(conv.w[2]),
        rows(pool.y()[2]),
        columns(pool.y()[3]),
        positions(rows * columns),
        vectors(whole_vectors(positions) / kLanes),
        plane(whole_vectors((rows - 1) * columns + whole_vectors(columns))),
        line(2 * whole_vectors(columns + kernel / 2) + 2 * kLanes) {}

  std::int64_t patch() const { return (kernel + 1) * (kernel + 1); }
  std::int64_t taps() const { return kernel * kernel; }
  std::int64_t patch_floats() const { return vectors * channels * patch() * kLanes; }
  std::int64_t plane_floats() const { return channels * patch() * plane; }
  std::int64_t sum_floats() const { return filters * (channels * taps() + 1) * kLanes; }

  std::int64_t records, channels, height, width, top, left, filters, kernel;
  std::int64_t rows, columns;  // of y
  std::int64_t positions;      // rows * columns
  std::int64_t vectors;        // that hold the positions
  std::int64_t plane;          // floats between planes, with room to write whole vectors
  std::int64_t line;           // floats of a padded input row
};

struct Scratch {
  Scratch(const Geometry& g, float* base)
      : patches(base),
        planes(patches + g.patch_floats()),
        line(planes + g.plane_floats()),
        even(line + g.line),
        odd(even + g.line),
        sums(odd + g.line) {}
  static std::size_t bytes(const Geometry& g, bool training) {
    const std::int64_t floats = g.patch_floats() + g.plane_floats() + 3 * g.line;
    return static_cast<std::size_t>(floats + (training ? g.sum_floats() : 0)) * sizeof(float);
  }
  float* patches;
  float* planes;             // (C, (K+1)*(K+1), plane): the same before it is cut into vectors
  float *line, *even, *odd;  // an input row, padded; its even and its odd columns
  float* sums;               // one vector for each weight and bias
};

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif

void split_columns(const Geometry& g, const Scratch& s, const float* x_row) {
  std::memcpy(s.line + g.left, x_row, static_cast<std::size_t>(g.width) * sizeof(float));
  const __m512i evens =
      _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odds = _mm512_add_epi32(evens, _mm512_set1_epi32(1));
  for (std::int64_t i = 0; 2 * (i + kLanes) <= g.line; i += kLanes) {
    const __m512 low = _mm512_loadu_ps(s.line + 2 * i);
    const __m512 high = _mm512_loadu_ps(s.line + 2 * i + kLanes);
    _mm512_storeu_ps(s.even + i, _mm512_permutex2var_ps(low, evens, high));
    _mm512_storeu_ps(s.odd + i, _mm512_permutex2var_ps(low, odds, high));
  }
}

// Whole vectors are written; what is too much is overwritten by the next row of the plane.
void spread_row(const Geometry& g, const Scratch& s, float* planes, std::int64_t row) {
  for (std::int64_t j = row % 2; j <= g.kernel; j += 2) {
    const std::int64_t y_row = (row - j) / 2;
    if (row < j || y_row >= g.rows) continue;
    for (std::int64_t k = 0; k <= g.kernel; ++k) {
      const float* from = (k % 2 == 0 ? s.even : s.odd) + k / 2;
      float* to = planes + (j * (g.kernel + 1) + k) * g.plane + y_row * g.columns;
      for (std::int64_t i = 0; i < g.columns; i += kLanes) {
        _mm512_storeu_ps(to + i, _mm512_loadu_ps(from + i));
      }
    }
  }
}

void fill_planes(const Geometry& g, const Scratch& s, const float* x, float* planes) {
  const std::int64_t rows = 2 * g.rows + g.kernel - 1;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t x_row = row - g.top;
    if (x_row < 0 || x_row >= g.height) {
      std::fill_n(s.even, 2 * g.line, 0.0f);
    } else {
      split_columns(g, s, x + x_row * g.width);
    }
    spread_row(g, s, planes, row);
  }
}

void fill_patches(const Geometry& g, const Scratch& s, const float* x) {
  for (std::int64_t c = 0; c < g.channels; ++c) {
    fill_planes(g, s, x + c * g.height * g.width, s.planes + c * g.patch() * g.plane);
  }
  float* to = s.patches;
  for (std::int64_t v = 0; v < g.vectors; ++v) {
    for (std::int64_t j = 0; j < g.channels * g.patch(); ++j, to += kLanes) {
      _mm512_storeu_ps(to, _mm512_loadu_ps(s.planes + j * g.plane + v * kLanes));
    }
  }
}

void clear_planes(const Geometry& g, const Scratch& s) {
  std::fill_n(s.planes, g.plane_floats() + 3 * g.line, 0.0f);
}

template <int K>
struct Pass {
  static constexpr int kPatch = K + 1;

  static constexpr int kPatchFloats = kPatch * kPatch * kLanes;
  static constexpr int kTaps = K * K;

  // The outputs of F filters at the four places of a window; filter f's weights are w + f*step.
  template <int F>
  static void convolve(std::int64_t channels, const float* patch, const float* w,
                       __m512 (&out)[F][4]) {
    const std::int64_t step = channels * kTaps;
    for (std::int64_t c = 0; c < channels; ++c, patch += kPatchFloats, w += kTaps) {
#pragma GCC unroll 32
      for (int t = 0; t < kTaps; ++t) {
        const float* p = patch + (t / K * kPatch + t % K) * kLanes;
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) {
          const __m512 weight = _mm512_set1_ps(w[f * step + t]);
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i) {
            const __m512 input = _mm512_loadu_ps(p + (i / 2 * kPatch + i % 2) * kLanes);
            out[f][i] = _mm512_fmadd_ps(weight, input, out[f][i]);
          }
        }
      }
    }
  }

  // The first of equal ones wins; NaN passes relu.
  static void reduce(const __m512 (&out)[4], __mmask16 valid, float* y, Winners* saved) {
    const __m512 upper = _mm512_max_ps(out[1], out[0]), lower = _mm512_max_ps(out[3], out[2]);
    const __m512 largest = _mm512_max_ps(lower, upper), zero = _mm512_setzero_ps();
    _mm512_mask_storeu_ps(y, valid, _mm512_max_ps(zero, largest));
    if (saved == nullptr) return;
    const __mmask16 row = _mm512_cmp_ps_mask(lower, upper, _CMP_GT_OQ);
    const __mmask16 right_above = _mm512_cmp_ps_mask(out[1], out[0], _CMP_GT_OQ);
    const __mmask16 right_below = _mm512_cmp_ps_mask(out[3], out[2], _CMP_GT_OQ);
    saved->column = static_cast<std::uint16_t>((row & right_below) | (~row & right_above));
    saved->row = row;
    saved->alive = _mm512_mask_cmp_ps_mask(valid, largest, zero, _CMP_GT_OQ);
  }

  template <int F>
  static void filters(const Geometry& g, const float* patch, __mmask16 valid, const float* w,
                      const float* b, float* y, Winners* saved) {
    __m512 out[F][4];
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      out[f][0] = out[f][1] = out[f][2] = out[f][3] = _mm512_set1_ps(b == nullptr ? 0.0f : b[f]);
    }
    convolve<F>(g.channels, patch, w, out);
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      reduce(out[f], valid, y + f * g.positions,
             saved == nullptr ? nullptr : saved + f * g.vectors);
    }
  }

  static void forward(const Geometry& g, const Scratch& s, const float* w, const float* b, float* y,
                      Winners* saved) {
    for (std::int64_t v = 0; v < g.vectors; ++v) {
      const std::int64_t left = std::min(kLanes, g.positions - v * kLanes);
      const auto valid = static_cast<__mmask16>((1u << left) - 1);
      const float* patch = s.patches + v * g.channels * kPatchFloats;
      for (std::int64_t o = 0; o < g.filters;) {
        const float* w_o = w + o * g.channels * kTaps;
        const float* b_o = b == nullptr ? nullptr : b + o;
        float* y_o = y + o * g.positions + v * kLanes;
        Winners* saved_o = saved == nullptr ? nullptr : saved + o * g.vectors + v;
        if (o + 2 <= g.filters) {
          filters<2>(g, patch, valid, w_o, b_o, y_o, saved_o);
          o += 2;
        } else {
          filters<1>(g, patch, valid, w_o, b_o, y_o, saved_o);
          o += 1;
        }
      }
    }
  }

  // sums[i*K + j] += dy * (input under weight (i, j) where the window was won)
  static void backward_taps(const Geometry& g, const float* patch, const float* dy,
                            const Winners* saved, float* sums) {
    __m512 sum[kTaps];
#pragma GCC unroll 32
    for (int t = 0; t < kTaps; ++t) sum[t] = _mm512_loadu_ps(sums + t * kLanes);
    for (std::int64_t v = 0; v < g.vectors; ++v, patch += g.channels * kPatchFloats) {
      const Winners won = saved[v];
      const __m512 d = _mm512_maskz_loadu_ps(won.alive, dy + v * kLanes);
      __m512 above[K];
#pragma GCC unroll 8
      for (int i = 0; i <= K; ++i) {
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) {
          const float* p = patch + (i * kPatch + j) * kLanes;
          const __m512 input = _mm512_mask_loadu_ps(_mm512_loadu_ps(p), won.column, p + kLanes);
          if (i > 0) {
            const int t = (i - 1) * K + j;
            sum[t] = _mm512_fmadd_ps(_mm512_mask_blend_ps(won.row, above[j], input), d, sum[t]);
          }
          above[j] = input;
        }
      }
    }
#pragma GCC unroll 32
    for (int t = 0; t < kTaps; ++t) _mm512_storeu_ps(sums + t * kLanes, sum[t]);
  }

  static void backward(const Geometry& g, const Scratch& s, const float* dy, const Winners* saved) {
    float* sums = s.sums;
    for (std::int64_t o = 0; o < g.filters; ++o, dy += g.positions, saved += g.vectors) {
      for (std::int64_t c = 0; c < g.channels; ++c, sums += kTaps * kLanes) {
        backward_taps(g, s.patches + c * kPatchFloats, dy, saved, sums);
      }
      __m512 bias = _mm512_loadu_ps(sums);
      for (std::int64_t v = 0; v < g.vectors; ++v) {
        bias = _mm512_add_ps(bias, _mm512_maskz_loadu_ps(saved[v].alive, dy + v * kLanes));
      }
      _mm512_storeu_ps(sums, bias);
      sums += kLanes;
    }
  }
};

void finish_sums(const Geometry& g, const Scratch& s, float* dw, float* db) {
  const std::int64_t weights = g.channels * g.taps();
  const float* sums = s.sums;
  for (std::int64_t o = 0; o < g.filters; ++o) {
    for (std::int64_t i = 0; i < weights; ++i, sums += kLanes) {
      *dw++ = _mm512_reduce_add_ps(_mm512_loadu_ps(sums));
    }
    if (db != nullptr) db[o] = _mm512_reduce_add_ps(_mm512_loadu_ps(sums));
    sums += kLanes;
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

template <int K>
class FusedConvReluPool final : public ConvReluPool {
 public:
  FusedConvReluPool(const Geometry& geometry, bool training)
      : geometry_(geometry), training_(training) {}

  std::size_t saved_bytes() const override {
    const std::int64_t vectors = geometry_.records * geometry_.filters * geometry_.vectors;
    return training_ ? static_cast<std::size_t>(vectors) * sizeof(Winners) : 0;
  }
  std::size_t scratch_bytes() const override { return Scratch::bytes(geometry_, training_); }

  void forward(Stream&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y, Tensor saved,
               Tensor scratch) override {
    const Geometry& g = geometry_;
    const Scratch s(g, scratch.as<float>());
    clear_planes(g, s);
    for (std::int64_t n = 0; n < g.records; ++n) {
      fill_patches(g, s, x.as<float>() + n * g.channels * g.height * g.width);
      Winners* winners = training_ ? saved.as<Winners>() + n * g.filters * g.vectors : nullptr;
      Pass<K>::forward(g, s, w.as<float>(), b.as<float>(),
                       y.as<float>() + n * g.filters * g.positions, winners);
    }
  }

  void backward(Stream&, const Tensor& x, const Tensor&, const Tensor&, const Tensor& dy,
                const Tensor& saved, Tensor, Tensor dw, Tensor db, Tensor scratch) override {
    const Geometry& g = geometry_;
    const Scratch s(g, scratch.as<float>());
    clear_planes(g, s);
    std::fill_n(s.sums, g.sum_floats(), 0.0f);
    for (std::int64_t n = 0; n < g.records; ++n) {
      fill_patches(g, s, x.as<float>() + n * g.channels * g.height * g.width);
      Pass<K>::backward(g, s, dy.as<float>() + n * g.filters * g.positions,
                        saved.as<Winners>() + n * g.filters * g.vectors);
    }
    finish_sums(g, s, dw.as<float>(), db.as<float>());
  }

 private:
  Geometry geometry_;
  bool training_;
};

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

bool both(const std::int64_t (&values)[2], std::int64_t wanted) {
  return values[0] == wanted && values[1] == wanted;
}

bool supported(const Conv2dSpec& conv, const Pool2dSpec& pool) {
  const bool plain_conv = both(conv.stride, 1) && both(conv.dilation, 1) && conv.groups == 1 &&
                          conv.w[2] == conv.w[3] && conv.x_layout == nullptr;
  const bool plain_pool = pool.kind == PoolKind::max && both(pool.kernel, 2) &&
                          both(pool.stride, 2) && both(pool.padding, 0);
  return has_avx512() && plain_conv && plain_pool && conv.activation == Activation::relu &&
         !conv.needs_dx && pool.y().numel() > 0;
}

}  // namespace

std::unique_ptr<ConvReluPool> CpuKernels::make_conv_relu_pool(const Conv2dSpec& conv,
                                                              const Pool2dSpec& pool) {
  if (!supported(conv, pool)) return nullptr;
  const Geometry geometry(conv, pool);
  if (geometry.plane_floats() * sizeof(float) > kMostPlaneBytes) return nullptr;
  if (geometry.kernel == 3) {
    return std::make_unique<FusedConvReluPool<3>>(geometry, conv.training);
  }
  if (geometry.kernel == 5) {
    return std::make_unique<FusedConvReluPool<5>>(geometry, conv.training);
  }
  return nullptr;
}

}  // namespace peal::cpu
