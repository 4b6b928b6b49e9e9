// Loops over all elements; every function may work in place.
#include "core/base/clones.h"
#include "core/base/error.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/pieces.h"
#include "core/kernels/elements.h"
#include "core/kernels/nest.h"
#include "core/kernels/vector_math.h"

namespace peal::cpu {
namespace {

template <class F>
PEAL_INLINE void map(const float* x, float* y, std::int64_t n, F f) {
  PEAL_ELEMENTWISE
  for (std::int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(f(x[i]));
}

template <class F>
PEAL_INLINE void zip(const float* x, const float* y, float* z, std::int64_t n, F f) {
  PEAL_ELEMENTWISE
  for (std::int64_t i = 0; i < n; ++i) z[i] = static_cast<float>(f(x[i], y[i]));
}

// Comparisons are turned so that a NaN passes through.
PEAL_CLONES void activate(Activation kind, float slope, const float* x, float* y, std::int64_t n) {
  switch (kind) {
    case Activation::none:
      return map(x, y, n, [](float v) { return v; });
    case Activation::relu:
      return map(x, y, n, [](float v) { return v < 0 ? 0.0f : v; });
    case Activation::leaky_relu:
      return map(x, y, n, [slope](float v) { return v < 0 ? slope * v : v; });
    case Activation::gelu:
      return map(x, y, n, [](double v) { return v * normal_of(v).cumulative; });
    case Activation::sigmoid:
      return map(x, y, n, [](double v) { return sigmoid_of(v); });
    case Activation::tanh:
      return map(x, y, n, [](double v) { return tanh_of(v); });
    case Activation::gelu_tanh:
      return map(x, y, n, [](float v) { return gelu_tanh_of(v); });
  }
}

// from: x for gelu and gelu_tanh, y for every other kind.
PEAL_CLONES void activate_backward(Activation kind, float slope, const float* from, const float* dy,
                                   float* dx, std::int64_t n) {
  switch (kind) {
    case Activation::none:
      return map(dy, dx, n, [](float g) { return g; });
    case Activation::relu:
      return zip(from, dy, dx, n, [](float y, float g) { return y <= 0 ? 0.0f : g; });
    case Activation::leaky_relu:
      return zip(from, dy, dx, n, [slope](float y, float g) { return y <= 0 ? slope * g : g; });
    case Activation::gelu:
      return zip(from, dy, dx, n, [](double x, double g) {
        const Normal normal = normal_of(x);
        return g * (normal.cumulative + x * normal.density);
      });
    case Activation::sigmoid:
      return zip(from, dy, dx, n, [](float y, float g) { return g * (y * (1 - y)); });
    case Activation::tanh:
      return zip(from, dy, dx, n, [](float y, float g) { return g * ((1 - y) * (1 + y)); });
    case Activation::gelu_tanh:
      return zip(from, dy, dx, n, [](float x, float g) { return g * gelu_tanh_slope(x); });
  }
}

PEAL_CLONES void scale_row(float factor, const float* x, float* y, std::int64_t n) {
  map(x, y, n, [factor](float v) { return factor * v; });
}

PEAL_CLONES void fill_row(float value, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = value;
}

PEAL_CLONES void add_row(const float* x, float* y, std::int64_t n) {
  zip(x, y, y, n, [](float a, float b) { return a + b; });
}

// One row of a broadcast: a step of 0 repeats one element.
template <class F>
PEAL_INLINE void zip_row(const float* x, std::int64_t x_step, const float* y, std::int64_t y_step,
                         float* z, std::int64_t n, F f) {
  if (x_step != 0 && y_step != 0) return zip(x, y, z, n, f);
  if (x_step != 0) return map(x, z, n, [f, b = *y](float a) { return f(a, b); });
  if (y_step != 0) return map(y, z, n, [f, a = *x](float b) { return f(a, b); });
  *z = f(*x, *y);
}

PEAL_CLONES void binary_row(BinaryOp op, const float* x, std::int64_t x_step, const float* y,
                            std::int64_t y_step, float* z, std::int64_t n) {
  switch (op) {
    case BinaryOp::add:
      return zip_row(x, x_step, y, y_step, z, n, [](float a, float b) { return a + b; });
    case BinaryOp::sub:
      return zip_row(x, x_step, y, y_step, z, n, [](float a, float b) { return a - b; });
    case BinaryOp::mul:
      return zip_row(x, x_step, y, y_step, z, n, [](float a, float b) { return a * b; });
  }
}

}  // namespace

void CpuKernels::activation(Stream&, Activation kind, float slope, const Tensor& x, Tensor y) {
  for_pieces(x.dtype, elements(x), [&](std::int64_t first, std::int64_t n) {
    activate(kind, slope, Reads(x, first, n), Writes(y, first, n), n);
  });
}

void CpuKernels::activation_backward(Stream&, Activation kind, float slope, const Tensor& x,
                                     const Tensor& y, const Tensor& dy, Tensor dx) {
  const Tensor& from = backward_reads_x(kind) ? x : y;
  for_pieces(dy.dtype, elements(dy), [&](std::int64_t first, std::int64_t n) {
    activate_backward(kind, slope, Reads(from, first, n), Reads(dy, first, n), Writes(dx, first, n),
                      n);
  });
}

void CpuKernels::scale(Stream&, float factor, const Tensor& x, Tensor y) {
  for_pieces(x.dtype, elements(x), [&](std::int64_t first, std::int64_t n) {
    scale_row(factor, Reads(x, first, n), Writes(y, first, n), n);
  });
}

void CpuKernels::accumulate(Stream&, const Tensor& x, Tensor y) {
  for_pieces(x.dtype, elements(x), [&](std::int64_t first, std::int64_t n) {
    add_row(Reads(x, first, n), Writes(y, first, n, /*keep=*/true), n);
  });
}

void CpuKernels::binary(Stream&, BinaryOp op, const Tensor& x, const Tensor& y, Tensor z) {
  if (x.shape == y.shape) {
    for_pieces(x.dtype, elements(x), [&](std::int64_t first, std::int64_t n) {
      binary_row(op, Reads(x, first, n), 1, Reads(y, first, n), 1, Writes(z, first, n), n);
    });
    return;
  }
  const int rank = z.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  const auto z_strides = repeat_strides(z.shape, rank);
  Nest nest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    nest.add(z.shape[static_cast<int>(i)], {x_strides[i], y_strides[i], z_strides[i]});
  }
  const Nest::Axis row = nest.pop();
  nest.for_each([&](const Steps& at) {
    for_pieces(z.dtype, row.size, [&](std::int64_t first, std::int64_t n) {
      const auto read = [&](const Tensor& t, std::size_t i) {  // a step of 0 repeats one element
        return Reads(t, at[i] + first * row.steps[i], row.steps[i] == 0 ? 1 : n);
      };
      binary_row(op, read(x, 0), row.steps[0], read(y, 1), row.steps[1],
                 Writes(z, at[2] + first, n), n);
    });
  });
}

void CpuKernels::broadcast(Stream&, const Tensor& x, float factor, Tensor y) {
  const int rank = y.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  Nest nest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    nest.add(y.shape[static_cast<int>(i)], {x_strides[i], y_strides[i], 0});
  }
  const Nest::Axis row = nest.pop();
  nest.for_each([&](const Steps& at) {
    for_pieces(y.dtype, row.size, [&](std::int64_t first, std::int64_t n) {
      const float* from = x.as<float>() + at[0] + first * row.steps[0];
      const Writes to(y, at[1] + first, n);
      if (row.steps[0] == 0) return fill_row(factor * *from, to, n);
      scale_row(factor, from, to, n);
    });
  });
}

}  // namespace peal::cpu
