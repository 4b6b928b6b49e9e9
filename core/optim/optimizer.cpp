#include "core/optim/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/kernels/kernels.h"

namespace peal {
namespace {

class Sgd final : public Optimizer {
 public:
  explicit Sgd(const SgdOptions& options) : options_(options) {}

  std::vector<std::string> state_names() const override {
    if (options_.momentum == 0) return {};
    return {"sgd.velocity"};
  }
  double learning_rate() const override { return options_.learning_rate; }

  void step(Stream& s, const Step& step, const Tensor& gradients, const std::vector<Tensor>& states,
            Tensor parameters) override {
    const Kernels::SgdStep rule{.learning_rate = step.learning_rate,
                                .momentum = options_.momentum,
                                .weight_decay = options_.weight_decay,
                                .nesterov = options_.nesterov,
                                .first = step.number == 1,
                                .gradient_scale = step.gradient_scale,
                                .control = step.control};
    const Tensor velocity = options_.momentum == 0 ? Tensor{} : states.at(0);
    kernels(s.device()).sgd(s, rule, gradients, velocity, parameters);
  }

 private:
  SgdOptions options_;
};

class Adam final : public Optimizer {
 public:
  explicit Adam(const AdamOptions& options) : options_(options) {}

  std::vector<std::string> state_names() const override { return {"adam.m", "adam.v"}; }
  double learning_rate() const override { return options_.learning_rate; }

  void step(Stream& s, const Step& step, const Tensor& gradients, const std::vector<Tensor>& states,
            Tensor parameters) override {
    const auto t = static_cast<double>(step.number);
    const Kernels::AdamStep rule{.learning_rate = step.learning_rate,
                                 .beta1 = options_.beta1,
                                 .beta2 = options_.beta2,
                                 .epsilon = options_.epsilon,
                                 .weight_decay = options_.weight_decay,
                                 .decoupled = options_.decoupled,
                                 .correction1 = 1 - std::pow(options_.beta1, t),
                                 .correction2 = 1 - std::pow(options_.beta2, t),
                                 .gradient_scale = step.gradient_scale,
                                 .control = step.control};
    kernels(s.device()).adam(s, rule, gradients, states.at(0), states.at(1), parameters);
  }

 private:
  AdamOptions options_;
};

class RmsProp final : public Optimizer {
 public:
  explicit RmsProp(const RmsPropOptions& options) : options_(options) {}

  std::vector<std::string> state_names() const override {
    if (options_.momentum == 0) return {"rmsprop.v"};
    return {"rmsprop.v", "rmsprop.velocity"};
  }
  double learning_rate() const override { return options_.learning_rate; }

  void step(Stream& s, const Step& step, const Tensor& gradients, const std::vector<Tensor>& states,
            Tensor parameters) override {
    const Kernels::RmsPropStep rule{.learning_rate = step.learning_rate,
                                    .alpha = options_.alpha,
                                    .epsilon = options_.epsilon,
                                    .momentum = options_.momentum,
                                    .weight_decay = options_.weight_decay,
                                    .gradient_scale = step.gradient_scale,
                                    .control = step.control};
    const Tensor velocity = options_.momentum == 0 ? Tensor{} : states.at(1);
    kernels(s.device()).rmsprop(s, rule, gradients, states.at(0), velocity, parameters);
  }

 private:
  RmsPropOptions options_;
};

}  // namespace

std::unique_ptr<Optimizer> make_sgd(const SgdOptions& options) {
  return std::make_unique<Sgd>(options);
}

std::unique_ptr<Optimizer> make_adam(const AdamOptions& options) {
  return std::make_unique<Adam>(options);
}

std::unique_ptr<Optimizer> make_rmsprop(const RmsPropOptions& options) {
  return std::make_unique<RmsProp>(options);
}

double Schedule::factor(std::int64_t step, std::int64_t total) const {
  if (step < warmup_steps) {
    return static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
  }
  const std::int64_t length = std::max<std::int64_t>(total - warmup_steps, 1);
  const std::int64_t done = step - warmup_steps;
  const double progress =
      std::min(1.0, static_cast<double>(done) / static_cast<double>(length));  // 0 to 1
  switch (kind) {
    case Kind::constant:
      return 1;
    case Kind::step:
      return std::pow(gamma, static_cast<double>(done / every_steps));
    case Kind::cosine:
      return last_factor + (1 - last_factor) * (1 + std::cos(std::numbers::pi * progress)) / 2;
    case Kind::linear:
      return 1 + (last_factor - 1) * progress;
  }
  return 1;
}

std::int64_t norm_blocks(std::int64_t elements) {
  return (elements + Kernels::kNormBlock - 1) / Kernels::kNormBlock;
}

}  // namespace peal
