// Element by element, at the speed of memory; every function may work in
// place. Formulas are the CPU's (cpu/pointwise.cpp), to the bit but for what multiply_add rounds.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/elementary.cuh"
#include "core/kernels/cuda/walk_kernel.cuh"
#include "core/kernels/elements.h"
#include "core/kernels/vector_math.h"

namespace peal::cuda {
namespace {

// Comparisons are turned so that a NaN passes through.
struct Relu {
  __device__ void operator()(const float* from, float* to) const { *to = *from < 0 ? 0.0f : *from; }
};

struct LeakyRelu {
  float slope;
  __device__ void operator()(const float* from, float* to) const {
    *to = *from < 0 ? slope * *from : *from;
  }
};

// 1/x for x from 3 to 20, 1e-11 relative: a first guess of 20 bits and a step of Newton's.
__device__ double reciprocal(double x) {
  double guess;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(guess) : "d"(x));
  return fma(fma(-x, guess, 1.0), guess, guess);
}

// normal_of(x) with the same polynomials, of which the terms that matter little are added up in
// f32: 4e-10 relative. Of f64 arithmetic a Hopper SM has half as much.
__device__ Normal quick_normal_of(double x) {
  constexpr NormalFit kFit = normal_fit();
  const double z = fmin(fabs(x), 14.5);
  const bool far = fabs(x) > 14.5;
  const double y = -0.5 * z * z;
  constexpr double kShift = 0x1.8p52;
  const double shifted = fma(y, 1.4426950408889634, kShift);
  const double r = fma(shifted - kShift, -0.6931471805599453, y);
  const double two_k = std::bit_cast<double>((std::bit_cast<std::uint64_t>(shifted) + 1023) << 52);
  const auto small_r = static_cast<float>(r);
  float e = 1.0f / 362880;
  e = fmaf(e, small_r, 1.0f / 40320);
  e = fmaf(e, small_r, 1.0f / 5040);
  e = fmaf(e, small_r, 1.0f / 720);
  e = fmaf(e, small_r, 1.0f / 120);
  e = fmaf(e, small_r, 1.0f / 24);
  double q = fma(static_cast<double>(e), r, 1.0 / 6);
  q = fma(q, r, 0.5);
  q = fma(q, r, 1.0);
  const double gauss = far ? 0.0 : fma(two_k, q * r, two_k);
  const double t = (z - 3.5) * reciprocal(z + 3.5);
  const auto small_t = static_cast<float>(t);
  constexpr int kInF64 = 6;
  auto last = static_cast<float>(kFit.of[12]);
#pragma unroll
  for (int i = 11; i >= kInF64; --i) last = fmaf(last, small_t, static_cast<float>(kFit.of[i]));
  double p = last;
#pragma unroll
  for (int i = kInF64 - 1; i >= 0; --i) p = fma(p, t, kFit.of[i]);
  const double tail = gauss * p;
  return {gauss * 0.3989422804014327, x > 0 ? 1.0 - tail : tail};
}

struct Gelu {
  __device__ void operator()(const float* from, float* to) const {
    const double x = *from;
    *to = static_cast<float>(x * quick_normal_of(x).cumulative);
  }
};

struct GeluByTanh {
  __device__ void operator()(const float* from, float* to) const { *to = gelu_tanh_of(*from); }
};

struct Sigmoid {
  __device__ void operator()(const float* from, float* to) const {
    *to = static_cast<float>(sigmoid_of(*from));
  }
};

struct Tanh {
  __device__ void operator()(const float* from, float* to) const {
    *to = static_cast<float>(tanh_of(*from));
  }
};

// Backward: from y, or from x for gelu, and dy.
struct ReluBackward {
  __device__ void operator()(const float* from, float* to) const {
    *to = from[0] <= 0 ? 0.0f : from[1];
  }
};

struct LeakyReluBackward {
  float slope;
  __device__ void operator()(const float* from, float* to) const {
    *to = from[0] <= 0 ? slope * from[1] : from[1];
  }
};

struct GeluBackward {
  __device__ void operator()(const float* from, float* to) const {
    const double x = from[0], dy = from[1];
    const Normal normal = quick_normal_of(x);
    *to = static_cast<float>(dy * multiply_add(x, normal.density, normal.cumulative));
  }
};

struct GeluByTanhBackward {
  __device__ void operator()(const float* from, float* to) const {
    *to = from[1] * gelu_tanh_slope(from[0]);
  }
};

struct SigmoidBackward {
  __device__ void operator()(const float* from, float* to) const {
    const float y = from[0];
    *to = from[1] * (y * (1 - y));
  }
};

struct TanhBackward {
  __device__ void operator()(const float* from, float* to) const {
    const float y = from[0];
    *to = from[1] * ((1 - y) * (1 + y));
  }
};

struct Add {
  __device__ void operator()(const float* from, float* to) const { *to = from[0] + from[1]; }
};

struct Subtract {
  __device__ void operator()(const float* from, float* to) const { *to = from[0] - from[1]; }
};

struct Multiply {
  __device__ void operator()(const float* from, float* to) const { *to = from[0] * from[1]; }
};

struct SubtractScaled {
  float factor;
  __device__ void operator()(const float* from, float* to) const {
    *to = from[0] - factor * from[1];
  }
};

template <typename F>
void map(Stream& s, const char* name, const Tensor& x, const Tensor& y, const F& f) {
  for_stored(x.dtype, [&]<typename T>(Stored<T>) {
    for_elements<1, 1, T>(s, name, elements(x), {x.as<T>()}, {y.as<T>()}, f);
  });
}

template <typename F>
void zip(Stream& s, const char* name, const Tensor& x, const Tensor& y, const Tensor& z,
         const F& f) {
  for_stored(x.dtype, [&]<typename T>(Stored<T>) {
    for_elements<2, 1, T>(s, name, elements(x), {x.as<T>(), y.as<T>()}, {z.as<T>()}, f);
  });
}

// x and y repeat along the axes where they have one element.
template <typename F>
void combine(Stream& s, const Tensor& x, const Tensor& y, const Tensor& z, const F& f) {
  if (x.shape == y.shape) return zip(s, "binary", x, y, z, f);
  const int rank = z.shape.rank();
  const auto x_strides = repeat_strides(x.shape, rank);
  const auto y_strides = repeat_strides(y.shape, rank);
  const auto z_strides = repeat_strides(z.shape, rank);
  Nest nest;
  for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
    nest.add(z.shape[static_cast<int>(i)], {x_strides[i], y_strides[i], z_strides[i]});
  }
  for_stored(z.dtype, [&]<typename T>(Stored<T>) {
    for_nest<2, T>(s, "binary", nest, {x.as<T>(), y.as<T>()}, z.as<T>(), f);
  });
}

}  // namespace

void CudaKernels::activation(Stream& s, Activation kind, float slope, const Tensor& x, Tensor y) {
  switch (kind) {
    case Activation::none:
      return copy(s, x, y);
    case Activation::relu:
      return map(s, "relu", x, y, Relu{});
    case Activation::leaky_relu:
      return map(s, "leaky_relu", x, y, LeakyRelu{slope});
    case Activation::gelu:
      return map(s, "gelu", x, y, Gelu{});
    case Activation::sigmoid:
      return map(s, "sigmoid", x, y, Sigmoid{});
    case Activation::tanh:
      return map(s, "tanh", x, y, Tanh{});
    case Activation::gelu_tanh:
      return map(s, "gelu_tanh", x, y, GeluByTanh{});
  }
}

void CudaKernels::activation_backward(Stream& s, Activation kind, float slope, const Tensor& x,
                                      const Tensor& y, const Tensor& dy, Tensor dx) {
  switch (kind) {
    case Activation::none:
      return copy(s, dy, dx);
    case Activation::relu:
      return zip(s, "relu_backward", y, dy, dx, ReluBackward{});
    case Activation::leaky_relu:
      return zip(s, "leaky_relu_backward", y, dy, dx, LeakyReluBackward{slope});
    case Activation::gelu:
      return zip(s, "gelu_backward", x, dy, dx, GeluBackward{});
    case Activation::sigmoid:
      return zip(s, "sigmoid_backward", y, dy, dx, SigmoidBackward{});
    case Activation::tanh:
      return zip(s, "tanh_backward", y, dy, dx, TanhBackward{});
    case Activation::gelu_tanh:
      return zip(s, "gelu_tanh_backward", x, dy, dx, GeluByTanhBackward{});
  }
}

void CudaKernels::scale(Stream& s, float factor, const Tensor& x, Tensor y) {
  map(s, "scale", x, y, ScaleElement{factor});
}

void CudaKernels::accumulate(Stream& s, const Tensor& x, Tensor y) {
  zip(s, "accumulate", x, y, y, Add{});
}

void CudaKernels::binary(Stream& s, BinaryOp op, const Tensor& x, const Tensor& y, Tensor z) {
  switch (op) {
    case BinaryOp::add:
      return combine(s, x, y, z, Add{});
    case BinaryOp::sub:
      return combine(s, x, y, z, Subtract{});
    case BinaryOp::mul:
      return combine(s, x, y, z, Multiply{});
  }
}

void CudaKernels::subtract_scaled(Stream& s, float factor, const Tensor& y, Tensor m) {
  zip(s, "subtract_scaled", m, y, m, SubtractScaled{factor});
}

}  // namespace peal::cuda
