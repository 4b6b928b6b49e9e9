// One pass over the arenas; every rule is elementwise, so any slice gives the bits of the whole.
#include <cmath>

#include "core/base/clones.h"
#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/lanes.h"

namespace peal::cpu {
namespace {

PEAL_CLONES double square_sum(const float* x, std::int64_t n) {
  Lanes sum;
  for_lanes(x, n, [&](const Lanes& v) { add_products(v, v, sum); });
  return sum.total();
}

PEAL_CLONES void sgd_plain(float lr, float decay, float scale, const float* __restrict g,
                           float* __restrict x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] -= lr * (scale * g[i] + decay * x[i]);
}

struct Momentum {
  float keep;          // of the old velocity
  float use_gradient;  // nesterov: 1, else 0
  float use_velocity;  // nesterov: momentum, else 1
};

PEAL_CLONES void sgd_momentum(float lr, float decay, float scale, const Momentum& by,
                              const float* __restrict g, float* __restrict v, float* __restrict x,
                              std::int64_t n) {
  const Momentum m = by;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = scale * g[i] + decay * x[i];
    const float velocity = m.keep * v[i] + gradient;
    v[i] = velocity;
    x[i] -= lr * (m.use_gradient * gradient + m.use_velocity * velocity);
  }
}

struct Adam {
  float scale, l2, shrink;  // of the gradient; weight decay: added to it, or to x directly
  float new1, keep2, new2;  // 1 - beta1, beta2, 1 - beta2
  float step, epsilon;      // lr / c1 and epsilon, both times sqrt(c2), which saves a division
};

PEAL_CLONES void adam_rule(const Adam& by, const float* __restrict g, float* __restrict m,
                           float* __restrict v, float* __restrict x, std::int64_t n) {
  const Adam a = by;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = a.scale * g[i] + a.l2 * x[i];
    const float mean = m[i] + a.new1 * (gradient - m[i]);
    const float square = a.keep2 * v[i] + a.new2 * (gradient * gradient);
    m[i] = mean;
    v[i] = square;
    x[i] = a.shrink * x[i] - a.step * (mean / (std::sqrt(square) + a.epsilon));
  }
}

struct RmsProp {
  float scale, l2, keep, fresh, epsilon, lr, momentum;
};

PEAL_CLONES void rmsprop_plain(const RmsProp& by, const float* __restrict g, float* __restrict v,
                               float* __restrict x, std::int64_t n) {
  const RmsProp a = by;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = a.scale * g[i] + a.l2 * x[i];
    const float square = a.keep * v[i] + a.fresh * (gradient * gradient);
    v[i] = square;
    x[i] -= a.lr * (gradient / (std::sqrt(square) + a.epsilon));
  }
}

PEAL_CLONES void rmsprop_momentum(const RmsProp& by, const float* __restrict g, float* __restrict v,
                                  float* __restrict velocity, float* __restrict x, std::int64_t n) {
  const RmsProp a = by;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = a.scale * g[i] + a.l2 * x[i];
    const float square = a.keep * v[i] + a.fresh * (gradient * gradient);
    const float speed = a.momentum * velocity[i] + gradient / (std::sqrt(square) + a.epsilon);
    v[i] = square;
    velocity[i] = speed;
    x[i] -= a.lr * speed;
  }
}

float f(double value) {
  return static_cast<float>(value);
}

template <typename Step>
bool stays(const Step& step) {
  return !step.control.empty() && step.control.template as<float>()[0] == 0;
}

template <typename Step>
float scale_of(const Step& step) {
  if (step.control.empty()) return step.gradient_scale;
  return step.gradient_scale * step.control.template as<float>()[1];
}

}  // namespace

void CpuKernels::sum_squares(Stream&, const Tensor& x, Tensor sums) {
  const std::int64_t n = x.numel();
  for (std::int64_t i = 0; i * kNormBlock < n; ++i) {
    const std::int64_t first = i * kNormBlock;
    const std::int64_t size = n - first < kNormBlock ? n - first : kNormBlock;
    sums.as<double>()[i] = square_sum(x.as<float>() + first, size);
  }
}

void CpuKernels::sgd(Stream&, const SgdStep& step, const Tensor& g, Tensor velocity, Tensor x) {
  if (stays(step)) return;
  const float scale = scale_of(step);
  const float lr = f(step.learning_rate), decay = f(step.weight_decay);
  if (step.momentum == 0) {
    sgd_plain(lr, decay, scale, g.as<float>(), x.as<float>(), x.numel());
    return;
  }
  const float momentum = f(step.momentum);
  const Momentum by{step.first ? 0.0f : momentum, step.nesterov ? 1.0f : 0.0f,
                    step.nesterov ? momentum : 1.0f};
  sgd_momentum(lr, decay, scale, by, g.as<float>(), velocity.as<float>(), x.as<float>(), x.numel());
}

void CpuKernels::adam(Stream&, const AdamStep& step, const Tensor& g, Tensor m, Tensor v,
                      Tensor x) {
  if (stays(step)) return;
  const double lr = step.learning_rate, decay = step.weight_decay;
  const double root2 = std::sqrt(step.correction2);
  const Adam by{.scale = scale_of(step),
                .l2 = step.decoupled ? 0.0f : f(decay),
                .shrink = step.decoupled ? f(1 - lr * decay) : 1.0f,
                .new1 = f(1 - step.beta1),
                .keep2 = f(step.beta2),
                .new2 = f(1 - step.beta2),
                .step = f(lr / step.correction1 * root2),
                .epsilon = f(step.epsilon * root2)};
  adam_rule(by, g.as<float>(), m.as<float>(), v.as<float>(), x.as<float>(), x.numel());
}

void CpuKernels::rmsprop(Stream&, const RmsPropStep& step, const Tensor& g, Tensor v,
                         Tensor velocity, Tensor x) {
  if (stays(step)) return;
  const RmsProp by{.scale = scale_of(step),
                   .l2 = f(step.weight_decay),
                   .keep = f(step.alpha),
                   .fresh = f(1 - step.alpha),
                   .epsilon = f(step.epsilon),
                   .lr = f(step.learning_rate),
                   .momentum = f(step.momentum)};
  if (step.momentum == 0) {
    rmsprop_plain(by, g.as<float>(), v.as<float>(), x.as<float>(), x.numel());
    return;
  }
  rmsprop_momentum(by, g.as<float>(), v.as<float>(), velocity.as<float>(), x.as<float>(),
                   x.numel());
}

}  // namespace peal::cpu
