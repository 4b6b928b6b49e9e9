// The recurrent cells, element by element, in f32: what the gates of one hidden unit of one record
// do in a step, and its gradient. Both backends' kernels are loops over these; without contraction
// they give the same bits. exp and tanh are within 3 ulp.
#pragma once

#include <bit>
#include <cstdint>

#include "core/base/clones.h"
#include "core/kernels/kernels.h"

namespace peal {

// exp_parts(x, q) = 2^k with exp(x) = 2^k + 2^k*q: the reduction of vector_math.h in f32, for
// |x| <= 87. ln 2 is taken off in two parts, of which k times the first is exact.
PEAL_ANYWHERE float exp_parts(float x, float& q) {
  constexpr float kShift = 0x1.8p23f;  // adding it rounds to an integer, held in the low bits
  const float shifted = x * 1.442695041f + kShift;
  const float k = shifted - kShift;
  const float r = (x - k * 0.693359375f) - k * -2.12194440e-4f;
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  q = r + r * r * p;
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(shifted) + 127) << 23);
}

PEAL_ANYWHERE float sigmoid_f32(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
  float q;
  const float two_k = exp_parts(-x, q);
  return 1.0f / (1.0f + (two_k + two_k * q));
}

// (e^2x - 1) / (e^2x + 1)
PEAL_ANYWHERE float tanh_f32(float x) {
  float y = 2.0f * x;
  y = y < -20.0f ? -20.0f : y;
  y = y > 20.0f ? 20.0f : y;
  float q;
  const float two_k = exp_parts(y, q);
  const float e = (two_k - 1.0f) + two_k * q;
  return e / (e + 2.0f);
}

// A cell is kGates products a unit; kKept values a unit are kept for backward. forward takes
// a[g] = W_ih x + b_ih and u[g] = W_hh h + b_hh. In backward `dh` is the whole gradient of h and
// `dc` that of c; da[g] and du[g] become those of a and u (equal unless kTwoGradients), and what is
// returned is the gradient of h_before but for what flows through u.
struct TanhCell {
  static constexpr int kGates = 1, kKept = 0;
  static constexpr bool kTwoGradients = false, kHasC = false;
  PEAL_ANYWHERE static float forward(const float* a, const float* u, float, float, float*, float*) {
    return tanh_f32(a[0] + u[0]);
  }
  PEAL_ANYWHERE static float backward(const float*, float h, float, float, float, float dh, float*,
                                      float* da, float*) {
    da[0] = dh * (1.0f - h * h);
    return 0;
  }
};

struct ReluCell {
  static constexpr int kGates = 1, kKept = 0;
  static constexpr bool kTwoGradients = false, kHasC = false;
  PEAL_ANYWHERE static float forward(const float* a, const float* u, float, float, float*, float*) {
    const float sum = a[0] + u[0];
    return sum < 0.0f ? 0.0f : sum;
  }
  PEAL_ANYWHERE static float backward(const float*, float h, float, float, float, float dh, float*,
                                      float* da, float*) {
    da[0] = h > 0.0f ? dh : 0.0f;
    return 0;
  }
};

struct LstmCell {
  static constexpr int kGates = 4, kKept = 4;  // i, f, g, o
  static constexpr bool kTwoGradients = false, kHasC = true;
  PEAL_ANYWHERE static float forward(const float* a, const float* u, float, float c_before,
                                     float* kept, float* c) {
    kept[0] = sigmoid_f32(a[0] + u[0]);
    kept[1] = sigmoid_f32(a[1] + u[1]);
    kept[2] = tanh_f32(a[2] + u[2]);
    kept[3] = sigmoid_f32(a[3] + u[3]);
    *c = kept[1] * c_before + kept[0] * kept[2];
    return kept[3] * tanh_f32(*c);
  }
  PEAL_ANYWHERE static float backward(const float* kept, float, float, float c, float c_before,
                                      float dh, float* dc, float* da, float*) {
    const float i = kept[0], f = kept[1], g = kept[2], o = kept[3];
    const float t = tanh_f32(c);
    const float d = *dc + dh * o * (1.0f - t * t);
    da[0] = d * g * (i * (1.0f - i));
    da[1] = d * c_before * (f * (1.0f - f));
    da[2] = d * i * (1.0f - g * g);
    da[3] = dh * t * (o * (1.0f - o));
    *dc = d * f;
    return 0;
  }
};

struct GruCell {
  static constexpr int kGates = 3, kKept = 4;  // r, z, n, u_n
  static constexpr bool kTwoGradients = true, kHasC = false;
  PEAL_ANYWHERE static float forward(const float* a, const float* u, float h_before, float,
                                     float* kept, float*) {
    kept[0] = sigmoid_f32(a[0] + u[0]);
    kept[1] = sigmoid_f32(a[1] + u[1]);
    kept[2] = tanh_f32(a[2] + kept[0] * u[2]);
    kept[3] = u[2];
    return (1.0f - kept[1]) * kept[2] + kept[1] * h_before;
  }
  PEAL_ANYWHERE static float backward(const float* kept, float, float h_before, float, float,
                                      float dh, float*, float* da, float* du) {
    const float r = kept[0], z = kept[1], n = kept[2], u_n = kept[3];
    const float dn = dh * (1.0f - z) * (1.0f - n * n);
    da[0] = du[0] = dn * u_n * (r * (1.0f - r));
    da[1] = du[1] = dh * (h_before - n) * (z * (1.0f - z));
    da[2] = dn;
    du[2] = dn * r;
    return dh * z;
  }
};

// f(Cell()) for the cell that is meant.
template <typename F>
void with_cell(RecurrentCell cell, const F& f) {
  switch (cell) {
    case RecurrentCell::rnn_tanh:
      return f(TanhCell());
    case RecurrentCell::rnn_relu:
      return f(ReluCell());
    case RecurrentCell::lstm:
      return f(LstmCell());
    case RecurrentCell::gru:
      return f(GruCell());
  }
}

}  // namespace peal
