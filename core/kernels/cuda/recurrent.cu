// The gates of recurrent layers; recurrent_steps.h puts layers together. Where all records have
// every step, layers are cuDNN's.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/cudnn_rnn.h"
#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/recurrent_cell.h"
#include "core/kernels/recurrent_steps.h"

namespace peal::cuda {
namespace {

// A thread for each hidden unit of each record.
__device__ bool rests(const std::int32_t* lengths, std::int64_t record, std::int64_t step) {
  return lengths != nullptr && step >= lengths[record];
}

template <class Cell>
__global__ void __launch_bounds__(kThreads) forward_kernel(GatesForward g) {
  constexpr int kGates = Cell::kGates, kKept = Cell::kKept;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t n = g.hidden, b = i / n, j = i - b * n;
  if (b >= g.batch) return;
  float* const y = g.y + b * g.y_stride + j;
  if (rests(g.lengths, b, g.step)) {
    g.h[i] = g.h_before[i];
    if (Cell::kHasC) g.c[i] = g.c_before[i];
    *y = 0.0f;
    return;
  }
  float from[kGates], own[kGates], keep[kKept + 1], c_now = 0;
#pragma unroll
  for (int k = 0; k < kGates; ++k) {
    const std::int64_t at = (b * kGates + k) * n + j;
    from[k] = g.a[at];
    own[k] = g.product != nullptr ? g.product[at] + g.bias[k * n + j] : g.bias[k * n + j];
  }
  const float before = Cell::kHasC ? g.c_before[i] : 0.0f;
  const float now = Cell::forward(from, own, g.h_before[i], before, keep, &c_now);
#pragma unroll
  for (int k = 0; k < kKept; ++k) g.kept[(b * kKept + k) * n + j] = keep[k];
  if (Cell::kHasC) g.c[i] = c_now;
  g.h[i] = now;
  *y = now;
}

template <class Cell>
__global__ void __launch_bounds__(kThreads) backward_kernel(GatesBackward g) {
  constexpr int kGates = Cell::kGates, kKept = Cell::kKept;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t n = g.hidden, b = i / n, j = i - b * n;
  if (b >= g.batch) return;
  float dh = g.carry[i];
  if (g.product != nullptr) dh += g.product[i];
  float keep[kKept + 1], to_a[kGates] = {}, to_u[kGates] = {};
  if (rests(g.lengths, b, g.step)) {
    g.carry[i] = dh;
  } else {
    if (g.dy != nullptr) dh += g.dy[b * g.dy_stride + j];
#pragma unroll
    for (int k = 0; k < kKept; ++k) keep[k] = g.kept[(b * kKept + k) * n + j];
    const float c_now = Cell::kHasC ? g.c[i] : 0.0f, before = Cell::kHasC ? g.c_before[i] : 0.0f;
    float through = Cell::kHasC ? g.dc[i] : 0.0f;
    g.carry[i] =
        Cell::backward(keep, g.h[i], g.h_before[i], c_now, before, dh, &through, to_a, to_u);
    if (Cell::kHasC) g.dc[i] = through;
  }
#pragma unroll
  for (int k = 0; k < kGates; ++k) {
    const std::int64_t at = (b * kGates + k) * n + j;
    g.da[at] = to_a[k];
    if (Cell::kTwoGradients) g.du[at] = to_u[k];
  }
}

void forward(Stream& s, RecurrentCell cell, const GatesForward& g) {
  const std::int64_t units = g.batch * g.hidden;
  if (units == 0) return;
  const OnStream on(s);
  with_cell(cell, [&](auto of) {
    forward_kernel<decltype(of)><<<blocks_for(units, kThreads), kThreads, 0, on.stream>>>(g);
  });
  check_launch("recurrent");
}

void backward(Stream& s, RecurrentCell cell, const GatesBackward& g) {
  const std::int64_t units = g.batch * g.hidden;
  if (units == 0) return;
  const OnStream on(s);
  with_cell(cell, [&](auto of) {
    backward_kernel<decltype(of)><<<blocks_for(units, kThreads), kThreads, 0, on.stream>>>(g);
  });
  check_launch("recurrent backward");
}

}  // namespace

std::unique_ptr<Recurrent> CudaKernels::make_recurrent(const RecurrentSpec& spec) {
  if (!spec.lengths) return make_cudnn_recurrent(device_, spec);
  return make_recurrent_by_steps(*this, {forward, backward}, spec);
}

}  // namespace peal::cuda
