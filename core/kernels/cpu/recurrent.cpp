// The gates of recurrent layers; recurrent_steps.h puts layers together. A composition of oneDNN's
// products with these, not oneDNN's RNN primitives, which are no faster and know no records of
// different lengths.
#include <algorithm>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/recurrent_cell.h"
#include "core/kernels/recurrent_steps.h"

namespace peal::cpu {
namespace {

bool rests(const std::int32_t* lengths, std::int64_t record, std::int64_t step) {
  return lengths != nullptr && step >= lengths[record];
}

// Row b of a (B, columns), nullptr of nullptr.
template <typename T>
PEAL_INLINE T* row(T* matrix, std::int64_t b, std::int64_t columns) {
  return matrix == nullptr ? nullptr : matrix + b * columns;
}

// One record that does not rest. kProduct: is there one?
template <class Cell, bool kProduct>
PEAL_INLINE void forward_record(const GatesForward& g, std::int64_t b) {
  constexpr int kGates = Cell::kGates, kKept = Cell::kKept;
  const std::int64_t n = g.hidden;
  const float* __restrict a = row(g.a, b, kGates * n);
  const float* __restrict product = row(g.product, b, kGates * n);
  const float* __restrict bias = g.bias;
  const float* __restrict h_before = row(g.h_before, b, n);
  const float* __restrict c_before = row(g.c_before, b, n);
  float* __restrict h = row(g.h, b, n);
  float* __restrict c = row(g.c, b, n);
  float* __restrict kept = row(g.kept, b, kKept * n);
  float* __restrict y = row(g.y, b, g.y_stride);
  PEAL_ELEMENTWISE
  for (std::int64_t j = 0; j < n; ++j) {
    float from[kGates], own[kGates], keep[kKept + 1], c_now = 0;
    PEAL_UNROLL
    for (int k = 0; k < kGates; ++k) {
      from[k] = a[k * n + j];
      own[k] = kProduct ? product[k * n + j] + bias[k * n + j] : bias[k * n + j];
    }
    const float before = Cell::kHasC ? c_before[j] : 0.0f;
    const float now = Cell::forward(from, own, h_before[j], before, keep, &c_now);
    PEAL_UNROLL
    for (int k = 0; k < kKept; ++k) kept[k * n + j] = keep[k];
    if constexpr (Cell::kHasC) c[j] = c_now;
    h[j] = now;
    y[j] = now;
  }
}

void rest(const GatesForward& g, std::int64_t b) {
  const std::int64_t n = g.hidden;
  std::copy_n(g.h_before + b * n, n, g.h + b * n);
  if (g.c != nullptr) std::copy_n(g.c_before + b * n, n, g.c + b * n);
  std::fill_n(g.y + b * g.y_stride, n, 0.0f);
}

template <class Cell, bool kProduct>
PEAL_INLINE void forward_records(const GatesForward& g) {
  for (std::int64_t b = 0; b < g.batch; ++b) {
    if (rests(g.lengths, b, g.step)) {
      rest(g, b);
    } else {
      forward_record<Cell, kProduct>(g, b);
    }
  }
}

// kProduct, kDy: is there one?
template <class Cell, bool kProduct, bool kDy>
PEAL_INLINE void backward_record(const GatesBackward& g, std::int64_t b) {
  constexpr int kGates = Cell::kGates, kKept = Cell::kKept;
  const std::int64_t n = g.hidden;
  const float* __restrict kept = row(g.kept, b, kKept * n);
  const float* __restrict h = row(g.h, b, n);
  const float* __restrict h_before = row(g.h_before, b, n);
  const float* __restrict c = row(g.c, b, n);
  const float* __restrict c_before = row(g.c_before, b, n);
  const float* __restrict product = row(g.product, b, n);
  const float* __restrict dy = row(g.dy, b, g.dy_stride);
  float* __restrict carry = row(g.carry, b, n);
  float* __restrict dc = row(g.dc, b, n);
  float* __restrict da = row(g.da, b, kGates * n);
  float* __restrict du = row(g.du, b, kGates * n);
  PEAL_ELEMENTWISE
  for (std::int64_t j = 0; j < n; ++j) {
    float keep[kKept + 1], to_a[kGates], to_u[kGates];
    PEAL_UNROLL
    for (int k = 0; k < kKept; ++k) keep[k] = kept[k * n + j];
    float dh = carry[j];
    if (kProduct) dh += product[j];
    if (kDy) dh += dy[j];
    const float c_now = Cell::kHasC ? c[j] : 0.0f, before = Cell::kHasC ? c_before[j] : 0.0f;
    float through = Cell::kHasC ? dc[j] : 0.0f;
    carry[j] = Cell::backward(keep, h[j], h_before[j], c_now, before, dh, &through, to_a, to_u);
    if constexpr (Cell::kHasC) dc[j] = through;
    PEAL_UNROLL
    for (int k = 0; k < kGates; ++k) {
      da[k * n + j] = to_a[k];
      if constexpr (Cell::kTwoGradients) du[k * n + j] = to_u[k];
    }
  }
}

template <class Cell>
void rest(const GatesBackward& g, std::int64_t b) {
  const std::int64_t n = g.hidden;
  std::fill_n(g.da + b * Cell::kGates * n, Cell::kGates * n, 0.0f);
  if (Cell::kTwoGradients) std::fill_n(g.du + b * Cell::kGates * n, Cell::kGates * n, 0.0f);
  if (g.product == nullptr) return;
  for (std::int64_t j = b * n; j < (b + 1) * n; ++j) g.carry[j] += g.product[j];
}

template <class Cell, bool kProduct, bool kDy>
PEAL_INLINE void backward_records(const GatesBackward& g) {
  for (std::int64_t b = 0; b < g.batch; ++b) {
    if (rests(g.lengths, b, g.step)) {
      rest<Cell>(g, b);
    } else {
      backward_record<Cell, kProduct, kDy>(g, b);
    }
  }
}

// One clone a cell: what they call becomes part of them.
#define PEAL_CELL(Cell)                                                                      \
  PEAL_CLONES void forward_of(Cell, const GatesForward& g) {                                 \
    g.product == nullptr ? forward_records<Cell, false>(g) : forward_records<Cell, true>(g); \
  }                                                                                          \
  PEAL_CLONES void backward_of(Cell, const GatesBackward& g) {                               \
    if (g.product == nullptr) {                                                              \
      g.dy == nullptr ? backward_records<Cell, false, false>(g)                              \
                      : backward_records<Cell, false, true>(g);                              \
    } else {                                                                                 \
      g.dy == nullptr ? backward_records<Cell, true, false>(g)                               \
                      : backward_records<Cell, true, true>(g);                               \
    }                                                                                        \
  }
PEAL_CELL(TanhCell)
PEAL_CELL(ReluCell)
PEAL_CELL(LstmCell)
PEAL_CELL(GruCell)
#undef PEAL_CELL

void forward(Stream&, RecurrentCell cell, const GatesForward& g) {
  with_cell(cell, [&](auto of) { forward_of(of, g); });
}

void backward(Stream&, RecurrentCell cell, const GatesBackward& g) {
  with_cell(cell, [&](auto of) { backward_of(of, g); });
}

}  // namespace

std::unique_ptr<Recurrent> CpuKernels::make_recurrent(const RecurrentSpec& spec) {
  return make_recurrent_by_steps(*this, {forward, backward}, spec);
}

}  // namespace peal::cpu
