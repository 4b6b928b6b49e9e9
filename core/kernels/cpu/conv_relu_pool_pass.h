// The loops of conv_relu_pool.h over a vector type V, which says what a register is. A source
// includes this after its pragmas for V's instruction set. Everything here is the source's own and
// nothing is included, so that no function of another header is compiled for these instructions
// under a name that a CPU without them would call.
//
// V::kWidth lanes of a vector of 16 are one register: `lane` is the first of them, and bits of
// lanes start at it.

namespace peal::cpu::conv_relu_pool {
namespace {

template <class V>
void split_columns(const Geometry& g, const Scratch& s, const float* x_row) {
  std::memcpy(s.line + g.left, x_row, static_cast<std::size_t>(g.width) * sizeof(float));
  for (std::int64_t i = 0; 2 * (i + V::kWidth) <= g.line; i += V::kWidth) {
    const auto low = V::load(s.line + 2 * i), high = V::load(s.line + 2 * i + V::kWidth);
    V::store(s.even + i, V::evens(low, high));
    V::store(s.odd + i, V::odds(low, high));
  }
}

template <class V>
void copy_vector(float* to, const float* from) {
  for (std::int64_t lane = 0; lane < kLanes; lane += V::kWidth) {
    V::store(to + lane, V::load(from + lane));
  }
}

// Whole vectors are written; what is too much is overwritten by the next row of the plane.
template <class V>
void spread_row(const Geometry& g, const Scratch& s, float* planes, std::int64_t row) {
  for (std::int64_t j = row % 2; j <= g.kernel; j += 2) {
    const std::int64_t y_row = (row - j) / 2;
    if (row < j || y_row >= g.rows) continue;
    for (std::int64_t k = 0; k <= g.kernel; ++k) {
      const float* from = (k % 2 == 0 ? s.even : s.odd) + k / 2;
      float* to = planes + (j * (g.kernel + 1) + k) * g.plane + y_row * g.columns;
      for (std::int64_t i = 0; i < g.columns; i += kLanes) copy_vector<V>(to + i, from + i);
    }
  }
}

template <class V>
void fill_planes(const Geometry& g, const Scratch& s, const float* x, float* planes) {
  const std::int64_t rows = 2 * g.rows + g.kernel - 1;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t x_row = row - g.top;
    if (x_row < 0 || x_row >= g.height) {
      std::memset(s.even, 0, static_cast<std::size_t>(2 * g.line) * sizeof(float));
    } else {
      split_columns<V>(g, s, x + x_row * g.width);
    }
    spread_row<V>(g, s, planes, row);
  }
}

template <class V>
void fill_patches(const Geometry& g, const Scratch& s, const float* x) {
  for (std::int64_t c = 0; c < g.channels; ++c) {
    fill_planes<V>(g, s, x + c * g.height * g.width, s.planes + c * g.patch() * g.plane);
  }
  float* to = s.patches;
  for (std::int64_t v = 0; v < g.vectors; ++v) {
    for (std::int64_t j = 0; j < g.channels * g.patch(); ++j, to += kLanes) {
      copy_vector<V>(to, s.planes + j * g.plane + v * kLanes);
    }
  }
}

template <class V, int K>
struct Pass {
  using Floats = typename V::Floats;

  static constexpr int kPatch = K + 1;
  static constexpr int kPatchFloats = kPatch * kPatch * kLanes;
  static constexpr int kTaps = K * K;

  // The outputs of F filters at the four places of a window; filter f's weights are w + f*step.
  template <int F>
  static void convolve(std::int64_t channels, const float* patch, const float* w,
                       Floats (&out)[F][4]) {
    const std::int64_t step = channels * kTaps;
    const float* of[F];
    for (int f = 0; f < F; ++f) of[f] = w + f * step;
    for (std::int64_t c = 0; c < channels; ++c, patch += kPatchFloats) {
#pragma GCC unroll 32
      for (int t = 0; t < kTaps; ++t) {
        const float* p = patch + (t / K * kPatch + t % K) * kLanes;
        Floats weights[F];
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) weights[f] = V::set1(of[f][t]);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const Floats input = V::load(p + (i / 2 * kPatch + i % 2) * kLanes);
#pragma GCC unroll 4
          for (int f = 0; f < F; ++f) out[f][i] = V::multiply_add(weights[f], input, out[f][i]);
        }
      }
      for (int f = 0; f < F; ++f) of[f] += kTaps;
    }
  }

  // A byte of the 16 bits, or both.
  static void save(unsigned bits, std::int64_t lane, std::uint16_t* saved) {
    const auto bytes = static_cast<typename V::Bits>(bits);
    std::memcpy(reinterpret_cast<std::byte*>(saved) + lane / 8, &bytes, sizeof bytes);
  }

  // The first of equal ones wins; NaN passes relu.
  static void reduce(const Floats (&out)[4], unsigned valid, std::int64_t lane, float* y,
                     Winners* saved) {
    const Floats upper = V::max(out[1], out[0]), lower = V::max(out[3], out[2]);
    const Floats largest = V::max(lower, upper), zero = V::set1(0.0f);
    V::store_some(y, valid, V::max(zero, largest));
    if (saved == nullptr) return;
    const auto row = V::greater(lower, upper);
    const auto right_above = V::greater(out[1], out[0]);
    const auto right_below = V::greater(out[3], out[2]);
    save(V::bits(V::select(row, right_below, right_above)), lane, &saved->column);
    save(V::bits(row), lane, &saved->row);
    save(V::bits(V::greater(largest, zero)) & valid, lane, &saved->alive);
  }

  template <int F>
  static void filters(const Geometry& g, const float* patch, unsigned valid, std::int64_t lane,
                      const float* w, const float* b, float* y, Winners* saved) {
    Floats out[F][4];
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      out[f][0] = out[f][1] = out[f][2] = out[f][3] = V::set1(b == nullptr ? 0.0f : b[f]);
    }
    convolve<F>(g.channels, patch, w, out);
#pragma GCC unroll 4
    for (int f = 0; f < F; ++f) {
      reduce(out[f], valid, lane, y + f * g.positions,
             saved == nullptr ? nullptr : saved + f * g.vectors);
    }
  }

  // All filters at some lanes of a vector; y and saved are the first filter's.
  static void forward_lanes(const Geometry& g, const float* patch, unsigned valid,
                            std::int64_t lane, const float* w, const float* b, float* y,
                            Winners* saved) {
    for (std::int64_t o = 0; o < g.filters;) {
      const float* w_o = w + o * g.channels * kTaps;
      const float* b_o = b == nullptr ? nullptr : b + o;
      float* y_o = y + o * g.positions;
      Winners* saved_o = saved == nullptr ? nullptr : saved + o * g.vectors;
      if (o + 2 <= g.filters) {
        filters<2>(g, patch, valid, lane, w_o, b_o, y_o, saved_o);
        o += 2;
      } else {
        filters<1>(g, patch, valid, lane, w_o, b_o, y_o, saved_o);
        o += 1;
      }
    }
  }

  static void forward(const Geometry& g, const Scratch& s, const float* w, const float* b, float* y,
                      Winners* saved) {
    for (std::int64_t v = 0; v < g.vectors; ++v) {
      const std::int64_t left = g.positions - v * kLanes;
      const unsigned valid = (1u << (left < kLanes ? left : kLanes)) - 1;
      const float* patch = s.patches + v * g.channels * kPatchFloats;
      for (std::int64_t lane = 0; lane < kLanes; lane += V::kWidth) {
        forward_lanes(g, patch + lane, valid >> lane, lane, w, b, y + v * kLanes + lane,
                      saved == nullptr ? nullptr : saved + v);
      }
    }
  }

  // sums[i*K + j] += dy * (input under weight (i, j) where the window was won)
  static void backward_taps(const Geometry& g, const float* patch, const float* dy,
                            std::int64_t lane, const Winners* saved, float* sums) {
    Floats sum[kTaps];
#pragma GCC unroll 32
    for (int t = 0; t < kTaps; ++t) sum[t] = V::load(sums + t * kLanes);
    for (std::int64_t v = 0; v < g.vectors; ++v, patch += g.channels * kPatchFloats) {
      const auto column = V::mask(saved[v].column >> lane), row = V::mask(saved[v].row >> lane);
      const Floats d = V::load_some(dy + v * kLanes, V::mask(saved[v].alive >> lane));
#pragma GCC unroll 8
      for (int i = 0; i < K; ++i) {
        const float* p = patch + i * kPatch * kLanes;
        Floats left = V::select(row, V::load(p + kPatch * kLanes), V::load(p));
#pragma GCC unroll 8
        for (int j = 0; j < K; ++j) {
          p += kLanes;
          const Floats right = V::select(row, V::load(p + kPatch * kLanes), V::load(p));
          Floats& into = sum[i * K + j];
          into = V::multiply_add(V::select(column, right, left), d, into);
          left = right;
        }
      }
    }
#pragma GCC unroll 32
    for (int t = 0; t < kTaps; ++t) V::store(sums + t * kLanes, sum[t]);
  }

  static void backward_bias(const Geometry& g, const float* dy, std::int64_t lane,
                            const Winners* saved, float* sums) {
    Floats bias = V::load(sums);
    for (std::int64_t v = 0; v < g.vectors; ++v) {
      bias = V::add(bias, V::load_some(dy + v * kLanes, V::mask(saved[v].alive >> lane)));
    }
    V::store(sums, bias);
  }

  static void backward(const Geometry& g, const Scratch& s, const float* dy, const Winners* saved) {
    float* sums = s.sums;
    for (std::int64_t o = 0; o < g.filters; ++o, dy += g.positions, saved += g.vectors) {
      for (std::int64_t c = 0; c < g.channels; ++c, sums += kTaps * kLanes) {
        const float* patch = s.patches + c * kPatchFloats;
        for (std::int64_t lane = 0; lane < kLanes; lane += V::kWidth) {
          backward_taps(g, patch + lane, dy + lane, lane, saved, sums + lane);
        }
      }
      for (std::int64_t lane = 0; lane < kLanes; lane += V::kWidth) {
        backward_bias(g, dy + lane, lane, saved, sums + lane);
      }
      sums += kLanes;
    }
  }
};

template <class V>
Loops loops_of(std::int64_t kernel) {
  if (kernel == 3) return {fill_patches<V>, Pass<V, 3>::forward, Pass<V, 3>::backward};
  return {fill_patches<V>, Pass<V, 5>::forward, Pass<V, 5>::backward};
}

}  // namespace
}  // namespace peal::cpu::conv_relu_pool
