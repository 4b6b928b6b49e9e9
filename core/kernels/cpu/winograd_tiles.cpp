// In one dimension the points are 0, a, -a, b, -b and infinity. With a = sqrt(1/2) and b = sqrt(2)
// rounding errors are smaller than with 1 and 2, the paper's.
#include "core/kernels/cpu/winograd_tiles.h"

#include <immintrin.h>

#include "core/base/clones.h"

namespace peal::cpu::winograd {

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

namespace {

constexpr int kWeights = kTaps * kTaps;
constexpr std::int64_t kDepth = 256;  // of a product's operands that stay in the L1 cache

constexpr float kA = 0.70710678118654752f, kB = 1.4142135623730951f;
constexpr float kA2 = 0.5f, kB2 = 2.0f, kA3 = kA2 * kA, kB3 = kB2 * kB;
// One over the derivative of x (x^2 - a^2) (x^2 - b^2) at 0, a and b.
constexpr float kAt0 = 1 / (kA2 * kB2), kAtA = 1 / (2 * kA2 * (kA2 - kB2)),
                kAtB = 1 / (2 * kB2 * (kB2 - kA2));

using Float8 = __m256;

Float8 load(const float* from) {
  return _mm256_loadu_ps(from);
}
void store(float* to, Float8 x) {
  _mm256_storeu_ps(to, x);
}
Float8 times(float factor, Float8 x) {
  return _mm256_mul_ps(_mm256_set1_ps(factor), x);
}
Float8 fma(float factor, Float8 x, Float8 y) {
  return _mm256_fmadd_ps(_mm256_set1_ps(factor), x, y);
}
Float8 add(Float8 x, Float8 y) {
  return _mm256_add_ps(x, y);
}
Float8 subtract(Float8 x, Float8 y) {
  return _mm256_sub_ps(x, y);
}

// The maps of one dimension: kFrom vectors to kTo.
struct Input {  // of a patch
  static constexpr int kFrom = kPatch, kTo = kPatch;
  static void apply(const Float8 (&d)[kFrom], Float8 (&v)[kTo]) {
    const Float8 even_a = fma(-kB2, d[2], d[4]), odd_a = fma(-kB2, d[1], d[3]);
    const Float8 even_b = fma(-kA2, d[2], d[4]), odd_b = fma(-kA2, d[1], d[3]);
    v[0] = fma(kA2 * kB2, d[0], fma(-(kA2 + kB2), d[2], d[4]));
    v[1] = fma(kA, odd_a, even_a);
    v[2] = fma(-kA, odd_a, even_a);
    v[3] = fma(kB, odd_b, even_b);
    v[4] = fma(-kB, odd_b, even_b);
    v[5] = fma(kA2 * kB2, d[1], fma(-(kA2 + kB2), d[3], d[5]));
  }
};

struct Weights {  // of three taps
  static constexpr int kFrom = kTaps, kTo = kPatch;
  static void apply(const Float8 (&g)[kFrom], Float8 (&u)[kTo]) {
    const Float8 even_a = times(kAtA, fma(kA2, g[2], g[0])), odd_a = times(kAtA * kA, g[1]);
    const Float8 even_b = times(kAtB, fma(kB2, g[2], g[0])), odd_b = times(kAtB * kB, g[1]);
    u[0] = times(kAt0, g[0]);
    u[1] = add(even_a, odd_a);
    u[2] = subtract(even_a, odd_a);
    u[3] = add(even_b, odd_b);
    u[4] = subtract(even_b, odd_b);
    u[5] = g[2];
  }
};

struct Output {  // to a tile
  static constexpr int kFrom = kPatch, kTo = kTile;
  static void apply(const Float8 (&m)[kFrom], Float8 (&y)[kTo]) {
    const Float8 even_a = add(m[1], m[2]), odd_a = subtract(m[1], m[2]);
    const Float8 even_b = add(m[3], m[4]), odd_b = subtract(m[3], m[4]);
    y[0] = add(m[0], add(even_a, even_b));
    y[1] = fma(kA, odd_a, times(kB, odd_b));
    y[2] = fma(kA2, even_a, times(kB2, even_b));
    y[3] = fma(kA3, odd_a, fma(kB3, odd_b, m[5]));
  }
};

// Transposes of the last two, for the gradient of the weights.
struct OutputAdjoint {
  static constexpr int kFrom = kTile, kTo = kPatch;
  static void apply(const Float8 (&y)[kFrom], Float8 (&m)[kTo]) {
    const Float8 even_a = fma(kA2, y[2], y[0]), odd_a = fma(kA3, y[3], times(kA, y[1]));
    const Float8 even_b = fma(kB2, y[2], y[0]), odd_b = fma(kB3, y[3], times(kB, y[1]));
    m[0] = y[0];
    m[1] = add(even_a, odd_a);
    m[2] = subtract(even_a, odd_a);
    m[3] = add(even_b, odd_b);
    m[4] = subtract(even_b, odd_b);
    m[5] = y[3];
  }
};

struct WeightsAdjoint {
  static constexpr int kFrom = kPatch, kTo = kTaps;
  static void apply(const Float8 (&u)[kFrom], Float8 (&g)[kTo]) {
    const Float8 even_a = times(kAtA, add(u[1], u[2])), odd_a = subtract(u[1], u[2]);
    const Float8 even_b = times(kAtB, add(u[3], u[4])), odd_b = subtract(u[3], u[4]);
    g[0] = fma(kAt0, u[0], add(even_a, even_b));
    g[1] = fma(kAtA * kA, odd_a, times(kAtB * kB, odd_b));
    g[2] = fma(kA2, even_a, fma(kB2, even_b, u[5]));
  }
};

// Map in both dimensions. get(i, j) reads a vector of the kFrom x kFrom, put(i, j, x) takes one of
// the kTo x kTo.
template <class Map, class Get, class Put>
PEAL_INLINE void transform(Get get, Put put) {
  Float8 half[Map::kTo][Map::kFrom];
  for (int j = 0; j < Map::kFrom; ++j) {
    Float8 from[Map::kFrom], to[Map::kTo];
#pragma GCC unroll 6
    for (int i = 0; i < Map::kFrom; ++i) from[i] = get(i, j);
    Map::apply(from, to);
#pragma GCC unroll 6
    for (int i = 0; i < Map::kTo; ++i) half[i][j] = to[i];
  }
  for (int i = 0; i < Map::kTo; ++i) {
    Float8 to[Map::kTo];
    Map::apply(half[i], to);
#pragma GCC unroll 6
    for (int j = 0; j < Map::kTo; ++j) put(i, j, to[j]);
  }
}

// Windows of size x size of a plane's blocks, one after the other, of which what lies outside the
// plane is zero: those are put together in a copy.
template <int size>
class Window {
 public:
  Window(const Plane& plane, const float* record, std::int64_t top, std::int64_t left)
      : from_(record + (top * plane.width + left) * kBlock),
        block_(plane.block()),
        row_(plane.row()),
        first_row_(std::clamp<std::int64_t>(-top, 0, size)),
        last_row_(std::clamp<std::int64_t>(plane.height - top, 0, size)),
        first_(std::clamp<std::int64_t>(-left, 0, size)),
        last_(std::clamp<std::int64_t>(plane.width - left, 0, size)),
        whole_(first_row_ == 0 && first_ == 0 && last_row_ == size && last_ == size) {
    if (!whole_) std::fill_n(copy_, size * size * kBlock, 0.0f);
  }

  // Floats between rows of what at() returns.
  std::int64_t row() const { return whole_ ? row_ : size * kBlock; }

  const float* at(std::int64_t block) {
    const float* from = from_ + block * block_;
    if (whole_) return from;
    for (std::int64_t i = first_row_; i < last_row_; ++i)
      for (std::int64_t j = first_; j < last_; ++j)
        store(copy_ + (i * size + j) * kBlock, load(from + i * row_ + j * kBlock));
    return copy_;
  }

 private:
  const float* from_;
  std::int64_t block_, row_, first_row_, last_row_, first_, last_;
  bool whole_;
  alignas(32) float copy_[size * size * kBlock];
};

// Windows of a plane into matrices; Map is Input or OutputAdjoint.
template <class Map>
void spread(const Plane& plane, const float* x, const Tiles& tiles, const Range& range,
            const std::int64_t (&padding)[2], const Matrices& to, float* matrices) {
  for (std::int64_t t = 0; t < range.count; ++t) {
    const Place place = tiles.place(range.first + t);
    Window<Map::kFrom> window(plane, x + place.record * plane.record(), place.top - padding[0],
                              place.left - padding[1]);
    const std::int64_t row = window.row();
    for (std::int64_t block = 0; block < plane.channels / kBlock; ++block) {
      const float* from = window.at(block);
      float* out = matrices + t * to.pitch + block * kBlock;
      transform<Map>([&](int i, int j) PEAL_INLINED { return load(from + i * row + j * kBlock); },
                     [&](int i, int j, Float8 v)
                         PEAL_INLINED { store(out + (i * kPatch + j) * to.step, v); });
    }
  }
}

// c (R, 16) = a (R, depth) * b (depth, 16), or that is added to c.
template <int R>
void multiply_tile(std::int64_t depth, const Left& a, const Right& b, float* c, std::int64_t pitch,
                   bool adds) {
  Float8 sum[R][2];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r) sum[r][0] = sum[r][1] = _mm256_setzero_ps();
  const float *a_k = a.data, *b_k = b.data;
  for (std::int64_t k = 0; k < depth; ++k, a_k += a.column, b_k += b.row) {
    const Float8 low = load(b_k), high = load(b_k + kBlock);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r) {
      const Float8 x = _mm256_broadcast_ss(a_k + r * a.row);
      sum[r][0] = _mm256_fmadd_ps(x, low, sum[r][0]);
      sum[r][1] = _mm256_fmadd_ps(x, high, sum[r][1]);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r, c += pitch) {
    store(c, adds ? add(load(c), sum[r][0]) : sum[r][0]);
    store(c + kBlock, adds ? add(load(c + kBlock), sum[r][1]) : sum[r][1]);
  }
}

using MultiplyTile = void (*)(std::int64_t, const Left&, const Right&, float*, std::int64_t, bool);
constexpr MultiplyTile kMultiplyTile[kRows + 1] = {
    nullptr,          multiply_tile<1>, multiply_tile<2>, multiply_tile<3>,
    multiply_tile<4>, multiply_tile<5>, multiply_tile<6>};

}  // namespace

void spread_inputs(const Plane& plane, const float* x, const Tiles& tiles, const Range& range,
                   const std::int64_t (&padding)[2], const Matrices& to, float* matrices) {
  spread<Input>(plane, x, tiles, range, padding, to, matrices);
}

void spread_gradients(const Plane& plane, const float* dy, const Tiles& tiles, const Range& range,
                      const Matrices& to, float* matrices) {
  spread<OutputAdjoint>(plane, dy, tiles, range, {0, 0}, to, matrices);
}

void collect(const Plane& plane, float* y, const Tiles& tiles, const Range& range,
             const Matrices& of, const float* matrices, const float* bias, bool relu) {
  for (std::int64_t t = 0; t < range.count; ++t) {
    const Place place = tiles.place(range.first + t);
    const std::int64_t rows = std::min<std::int64_t>(kTile, plane.height - place.top);
    const std::int64_t columns = std::min<std::int64_t>(kTile, plane.width - place.left);
    float* out =
        y + place.record * plane.record() + (place.top * plane.width + place.left) * kBlock;
    for (std::int64_t block = 0; block < plane.channels / kBlock; ++block, out += plane.block()) {
      const float* from = matrices + t * of.pitch + block * kBlock;
      const Float8 start = bias == nullptr ? _mm256_setzero_ps() : load(bias + block * kBlock);
      transform<Output>([&](int i, int j)
                            PEAL_INLINED { return load(from + (i * kPatch + j) * of.step); },
                        [&](int i, int j, Float8 v) PEAL_INLINED {
                          if (i >= rows || j >= columns) return;
                          v = add(v, start);
                          if (relu) v = _mm256_max_ps(_mm256_setzero_ps(), v);
                          store(out + i * plane.row() + j * kBlock, v);
                        });
    }
  }
}

void transform_weights(const float* w, bool turned, const Panels& to, float* panels) {
  const std::int64_t C = turned ? to.columns : to.rows;
  const std::int64_t row_step = (turned ? C : 1) * kWeights,
                     column_step = (turned ? 1 : C) * kWeights;
  for (std::int64_t column = 0; column < to.columns; column += kBlock) {
    for (std::int64_t row = 0; row < to.rows; ++row) {
      const float* from = w + row * row_step + column * column_step;
      alignas(32) float taps[kWeights][kBlock];
      for (int lane = 0; lane < kBlock; ++lane, from += column_step)
        for (int tap = 0; tap < kWeights; ++tap)
          taps[turned ? kWeights - 1 - tap : tap][lane] = from[tap];
      float* out = panels + (column / kColumns * to.rows + row) * kColumns + column % kColumns;
      transform<Weights>([&](int i, int j) PEAL_INLINED { return load(taps[i * kTaps + j]); },
                         [&](int i, int j, Float8 v)
                             PEAL_INLINED { store(out + (i * kPatch + j) * to.step(), v); });
    }
  }
}

void collect_weights(std::int64_t O, std::int64_t C, const Matrices& of, const float* matrices,
                     float* dw) {
  for (std::int64_t o = 0; o < O; ++o) {
    for (std::int64_t c = 0; c < C; c += kBlock, dw += kBlock * kWeights) {
      const float* from = matrices + o * of.pitch + c;
      alignas(32) float taps[kWeights][kBlock];
      transform<WeightsAdjoint>(
          [&](int i, int j) PEAL_INLINED { return load(from + (i * kPatch + j) * of.step); },
          [&](int i, int j, Float8 v) PEAL_INLINED { store(taps[i * kTaps + j], v); });
      for (int lane = 0; lane < kBlock; ++lane)
        for (int tap = 0; tap < kWeights; ++tap) dw[lane * kWeights + tap] = taps[tap][lane];
    }
  }
}

void sum_channels(std::int64_t batch, const Plane& plane, const float* dy, float* db) {
  for (std::int64_t block = 0; block < plane.channels / kBlock; ++block) {
    __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
    for (std::int64_t row = 0; row < batch * plane.height; ++row) {
      const float* from = dy + row / plane.height * plane.record() + block * plane.block() +
                          row % plane.height * plane.row();
      Float8 sum = load(from);
      for (std::int64_t j = 1; j < plane.width; ++j) sum = add(sum, load(from + j * kBlock));
      low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(sum)));
      high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(sum, 1)));
    }
    _mm_storeu_ps(db + block * kBlock, _mm256_cvtpd_ps(low));
    _mm_storeu_ps(db + block * kBlock + kBlock / 2, _mm256_cvtpd_ps(high));
  }
}

void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const Left& a,
              const Right& b, float* c, std::int64_t pitch, bool adds) {
  for (std::int64_t k = 0; k < depth; k += kDepth) {
    const std::int64_t some = std::min(kDepth, depth - k);
    for (std::int64_t j = 0; j < columns; j += kColumns) {
      const Right panel{b.data + k * b.row + j / kColumns * b.panel, b.row, b.panel};
      for (std::int64_t i = 0; i < rows; i += kRows) {
        const Left band{a.data + i * a.row + k * a.column, a.row, a.column};
        kMultiplyTile[std::min(kRows, rows - i)](some, band, panel, c + i * pitch + j, pitch,
                                                 adds || k > 0);
      }
    }
  }
}

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

}  // namespace peal::cpu::winograd
