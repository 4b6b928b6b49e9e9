// Recurrent layers put together from a device's own parts: its matrix products, and the two
// functions below for what lies between them. Forward, for each layer and direction:
//   a = W_ih x + b_ih for all steps in one product, 2*T*B*G*H*I operations;
//   each step: u = W_hh h, 2*B*G*H*H, then the gates.
// Backward the steps the other way round, gates and then dh = du W_hh, and for all steps at once
//   dx = da W_ih, dW_ih = da^T x, dW_hh = du^T h.
#pragma once

#include <cstdint>
#include <memory>

#include "core/kernels/kernels.h"

namespace peal {

// One step of one direction of one layer. Matrices are row-major (B, ..) and may lie anywhere;
// `kept` is (B, kKept*H) of recurrent_cell.h. Record b rests where step >= lengths[b].
struct GatesForward {
  std::int64_t batch = 0, hidden = 0, step = 0;
  const std::int32_t* lengths = nullptr;                 // no record rests
  const float* a = nullptr;                              // (B, G*H), bias_ih included
  const float* product = nullptr;                        // (B, G*H): u without bias_hh; nullptr: 0
  const float* bias = nullptr;                           // (G*H): bias_hh
  const float *h_before = nullptr, *c_before = nullptr;  // (B, H)
  float *h = nullptr, *c = nullptr;                      // (B, H)
  float* kept = nullptr;
  float* y = nullptr;  // row b at y + b*y_stride; H of each
  std::int64_t y_stride = 0;
};

struct GatesBackward {
  std::int64_t batch = 0, hidden = 0, step = 0;
  const std::int32_t* lengths = nullptr;
  const float* kept = nullptr;
  const float *h = nullptr, *c = nullptr, *h_before = nullptr, *c_before = nullptr;
  const float* dy = nullptr;  // row b at dy + b*dy_stride; nullptr: 0
  std::int64_t dy_stride = 0;
  const float* product = nullptr;  // (B, H): what came through u of the step before; nullptr: 0
  float* carry = nullptr;  // (B, H) in place: gradient of the state that came some other way
  float* dc = nullptr;     // (B, H) in place
  float* da = nullptr;     // (B, G*H)
  float* du = nullptr;     // (B, G*H); nullptr where it equals da
};

struct RecurrentGates {
  void (*forward)(Stream& s, RecurrentCell cell, const GatesForward& step);
  void (*backward)(Stream& s, RecurrentCell cell, const GatesBackward& step);
};

// `kernels`: the device's, which outlives the result.
std::unique_ptr<Recurrent> make_recurrent_by_steps(Kernels& kernels, const RecurrentGates& gates,
                                                   const RecurrentSpec& spec);

}  // namespace peal
