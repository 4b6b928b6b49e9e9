// Element by element, at the speed of memory (gelu: of f64 arithmetic); every function may work in
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

struct Gelu {
  __device__ void operator()(const float* from, float* to) const {
    const double x = *from;
    *to = static_cast<float>(x * normal_of(x).cumulative);
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
    const Normal normal = normal_of(x);
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
