// One pass over the arenas. The rules and their rounding are the CPU's (cpu/optimizer.cpp).
#include <cmath>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/launch.cuh"

namespace peal::cuda {
namespace {

// The factor on the gradient, and whether anything changes. Control is not written meanwhile.
struct Control {
  float factor;
  const float* memory;  // {go, factor}; nullptr: {1, 1}
  __device__ bool stays() const { return memory != nullptr && __ldg(memory) == 0.0f; }
  __device__ float scale() const { return memory != nullptr ? factor * __ldg(memory + 1) : factor; }
};

// Of a rule whose last input is x and whose other inputs but the gradient are its states.
template <int kCount>
__device__ void keep_all(const float* from, float* to) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = from[i + 1];
}

struct SgdPlain {
  float lr, decay;
  Control control;
  __device__ void operator()(const float* from, float* to) const {
    if (control.stays()) return keep_all<1>(from, to);
    const float g = from[0], x = from[1];
    to[0] = x - lr * (control.scale() * g + decay * x);
  }
};

struct SgdMomentum {
  float lr, decay;
  Control control;
  float keep;          // of the old velocity
  float use_gradient;  // nesterov: 1, else 0
  float use_velocity;  // nesterov: momentum, else 1
  __device__ void operator()(const float* from, float* to) const {
    if (control.stays()) return keep_all<2>(from, to);
    const float g = from[0], v = from[1], x = from[2];
    const float gradient = control.scale() * g + decay * x;
    const float velocity = keep * v + gradient;
    to[0] = velocity;
    to[1] = x - lr * (use_gradient * gradient + use_velocity * velocity);
  }
};

struct Adam {
  Control control;
  float l2, shrink;         // weight decay: added to the gradient, or to x directly
  float new1, keep2, new2;  // 1 - beta1, beta2, 1 - beta2
  float step, epsilon;      // lr / c1 and epsilon, both times sqrt(c2), which saves a division
  __device__ void operator()(const float* from, float* to) const {
    if (control.stays()) return keep_all<3>(from, to);
    const float g = from[0], m = from[1], v = from[2], x = from[3];
    const float gradient = control.scale() * g + l2 * x;
    const float mean = m + new1 * (gradient - m);
    const float square = keep2 * v + new2 * (gradient * gradient);
    to[0] = mean;
    to[1] = square;
    to[2] = shrink * x - step * (mean / (sqrtf(square) + epsilon));
  }
};

struct RmsProp {
  Control control;
  float l2, old, fresh, epsilon, lr, momentum;
  __device__ float gradient(float g, float x) const { return control.scale() * g + l2 * x; }
  __device__ float square(float v, float gradient) const {
    return old * v + fresh * (gradient * gradient);
  }
};

struct RmsPropPlain : RmsProp {
  __device__ void operator()(const float* from, float* to) const {
    if (control.stays()) return keep_all<2>(from, to);
    const float v = from[1], x = from[2];
    const float g = gradient(from[0], x);
    to[0] = square(v, g);
    to[1] = x - lr * (g / (sqrtf(to[0]) + epsilon));
  }
};

struct RmsPropMomentum : RmsProp {
  __device__ void operator()(const float* from, float* to) const {
    if (control.stays()) return keep_all<3>(from, to);
    const float v = from[1], velocity = from[2], x = from[3];
    const float g = gradient(from[0], x);
    to[0] = square(v, g);
    to[1] = momentum * velocity + g / (sqrtf(to[0]) + epsilon);
    to[2] = x - lr * to[1];
  }
};

float f(double value) {
  return static_cast<float>(value);
}

template <typename Step>
Control control_of(const Step& step) {
  return {step.gradient_scale, step.control.template as<const float>()};
}

}  // namespace

void CudaKernels::sgd(Stream& s, const SgdStep& step, const Tensor& g, Tensor velocity, Tensor x) {
  const float lr = f(step.learning_rate), decay = f(step.weight_decay);
  float *const v = velocity.as<float>(), *const at = x.as<float>();
  if (step.momentum == 0) {
    for_elements<2, 1>(s, "sgd", x.numel(), {g.as<float>(), at}, {at},
                       SgdPlain{lr, decay, control_of(step)});
    return;
  }
  const float momentum = f(step.momentum);
  for_elements<3, 2>(s, "sgd", x.numel(), {g.as<float>(), v, at}, {v, at},
                     SgdMomentum{lr, decay, control_of(step), step.first ? 0.0f : momentum,
                                 step.nesterov ? 1.0f : 0.0f, step.nesterov ? momentum : 1.0f});
}

void CudaKernels::adam(Stream& s, const AdamStep& step, const Tensor& g, Tensor m, Tensor v,
                       Tensor x) {
  const double lr = step.learning_rate, decay = step.weight_decay;
  const double root2 = std::sqrt(step.correction2);
  const Adam by{.control = control_of(step),
                .l2 = step.decoupled ? 0.0f : f(decay),
                .shrink = step.decoupled ? f(1 - lr * decay) : 1.0f,
                .new1 = f(1 - step.beta1),
                .keep2 = f(step.beta2),
                .new2 = f(1 - step.beta2),
                .step = f(lr / step.correction1 * root2),
                .epsilon = f(step.epsilon * root2)};
  float *const mean = m.as<float>(), *const square = v.as<float>(), *const at = x.as<float>();
  for_elements<4, 3>(s, "adam", x.numel(), {g.as<float>(), mean, square, at}, {mean, square, at},
                     by);
}

void CudaKernels::rmsprop(Stream& s, const RmsPropStep& step, const Tensor& g, Tensor v,
                          Tensor velocity, Tensor x) {
  const RmsProp by{.control = control_of(step),
                   .l2 = f(step.weight_decay),
                   .old = f(step.alpha),
                   .fresh = f(1 - step.alpha),
                   .epsilon = f(step.epsilon),
                   .lr = f(step.learning_rate),
                   .momentum = f(step.momentum)};
  float *const square = v.as<float>(), *const speed = velocity.as<float>();
  float* const at = x.as<float>();
  if (step.momentum == 0) {
    for_elements<3, 2>(s, "rmsprop", x.numel(), {g.as<float>(), square, at}, {square, at},
                       RmsPropPlain{by});
    return;
  }
  for_elements<4, 3>(s, "rmsprop", x.numel(), {g.as<float>(), square, speed, at},
                     {square, speed, at}, RmsPropMomentum{by});
}

}  // namespace peal::cuda
