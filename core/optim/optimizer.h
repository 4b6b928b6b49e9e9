// Optimizers over flat arenas. Every rule is elementwise, so that a slice of the arena may be
// stepped alone and the result does not depend on how it was cut.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/device/stream.h"
#include "core/device/tensor.h"

namespace peal {

struct SgdOptions {
  double learning_rate = 0.01, momentum = 0, weight_decay = 0;
  bool nesterov = false;
};
struct AdamOptions {
  double learning_rate = 0.001, beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  bool decoupled = false;  // AdamW
};
struct RmsPropOptions {
  double learning_rate = 0.01, alpha = 0.99, epsilon = 1e-8, momentum = 0, weight_decay = 0;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // Names of the per-parameter states, such as {"adam.m", "adam.v"}; each is one flat f32 arena
  // of the parameters' size, zero before the first step.
  virtual std::vector<std::string> state_names() const = 0;
  virtual double learning_rate() const = 0;  // before the schedule

  struct Step {
    std::int64_t number = 1;   // 1 for the first
    double learning_rate = 0;  // after the schedule
    float gradient_scale = 1;  // clipping factor
    Tensor control = {};       // what the device decides of it (kernels.h), may be empty
  };
  // gradients, parameters and states[i] are the same slice of their arenas: f32 (N).
  virtual void step(Stream& s, const Step& step, const Tensor& gradients,
                    const std::vector<Tensor>& states, Tensor parameters) = 0;
};

std::unique_ptr<Optimizer> make_sgd(const SgdOptions& options);
std::unique_ptr<Optimizer> make_adam(const AdamOptions& options);
std::unique_ptr<Optimizer> make_rmsprop(const RmsPropOptions& options);

// Factor on the learning rate for step `step` (0 for the first) of `total` steps. Let t be the
// steps after the warm-up and T how many of them there are; then step: gamma^floor(t /
// every_steps), PyTorch's StepLR; cosine: last_factor + (1 - last_factor) * (1 + cos(pi t/T)) / 2
// (Loshchilov & Hutter 2017, eq. 5); linear: 1 + (last_factor - 1) * t/T. Steps past the end keep
// the last factor.
struct Schedule {
  enum class Kind : std::uint8_t { constant, step, cosine, linear };
  Kind kind = Kind::constant;
  std::int64_t warmup_steps = 0;  // climbs as (step + 1) / warmup_steps
  std::int64_t every_steps = 1000;
  double gamma = 0.1;
  double last_factor = 0;

  double factor(std::int64_t step, std::int64_t total) const;
};

// The global norm of gradients comes from sums of squares over blocks of them
// (Kernels::sum_squares), which Kernels::clip adds up in their order: nothing waits for it.
std::int64_t norm_blocks(std::int64_t elements);  // how many

}  // namespace peal
