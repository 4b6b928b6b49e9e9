#include "core/optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <map>
#include <numbers>
#include <sstream>

#include "core/base/random.h"
#include "tests/golden/golden_file.h"
#include "tests/kernels/mirror.h"

namespace peal {
namespace {

using Lines = std::map<std::string, std::vector<std::vector<double>>>;

// tests/golden/make_optim_golden.py wrote it with PyTorch.
Lines read_golden() {
  const std::string path = golden::path_of("optim.golden.txt");
  std::ifstream file(path);
  EXPECT_TRUE(file) << path;
  Lines read;
  std::string text, name;
  while (std::getline(file, text)) {
    std::istringstream in(text);
    in >> name;
    auto& values = read[name].emplace_back();
    for (double value; in >> value;) values.push_back(value);
  }
  return read;
}

const Lines& lines() {
  static const Lines all = read_golden();
  return all;
}

std::vector<float> floats(const std::vector<double>& values) {
  return {values.begin(), values.end()};
}

Tensor view(std::vector<float>& values) {
  return {.data = values.data(), .shape = {static_cast<std::int64_t>(values.size())}};
}

// Weights and states that an optimizer steps together.
struct Weights {
  Weights(const Optimizer& optimizer, std::vector<float> start)
      : x(std::move(start)),
        states(optimizer.state_names().size(), std::vector<float>(x.size(), 0.0f)) {}

  // Steps elements first .. last - 1 only.
  void step(Optimizer& optimizer, Optimizer::Step step, std::vector<float> gradient,
            std::size_t first, std::size_t last, std::vector<float> control = {}) {
    const auto slice = [&](std::vector<float>& values) {
      return Tensor{.data = values.data() + first,
                    .shape = {static_cast<std::int64_t>(last - first)}};
    };
    Tensors changed;
    for (auto& state : states) changed.push_back(slice(state));
    changed.push_back(slice(x));
    Tensors read = changed;
    read.push_back(slice(gradient));
    read.push_back(control.empty() ? Tensor{} : view(control));
    on_test_device("step", read, changed, [&](Stream& s, const Tensors& in, const Tensors& out) {
      step.control = in.back();
      optimizer.step(s, step, in[in.size() - 2], {out.begin(), out.end() - 1}, out.back());
    });
  }
  void step(Optimizer& optimizer, const Optimizer::Step& by, const std::vector<float>& gradient,
            const std::vector<float>& control) {
    step(optimizer, by, gradient, 0, x.size(), control);
  }
  void step(Optimizer& optimizer, const Optimizer::Step& by, const std::vector<float>& gradient) {
    step(optimizer, by, gradient, 0, x.size());
  }

  std::vector<float> x;
  std::vector<std::vector<float>> states;
};

struct Norm {
  double norm = 0;
  float factor = 0;
};

Norm norm_of(std::vector<float>& gradient, double clip) {
  std::vector<double> sums(
      static_cast<std::size_t>(norm_blocks(static_cast<std::int64_t>(gradient.size()))));
  const Tensor blocks{
      .data = sums.data(), .shape = {static_cast<std::int64_t>(sums.size())}, .dtype = DType::f64};
  Norm result;
  const Tensor norm{.data = &result.norm, .shape = {1}, .dtype = DType::f64};
  const Tensor factor{.data = &result.factor, .shape = {1}};
  on_test_device("norm", {view(gradient)}, {blocks, norm, factor},
                 [&](Stream& s, const Tensors& in, const Tensors& out) {
                   Kernels& k = kernels(s.device());
                   k.sum_squares(s, in[0], out[0]);
                   k.clip(s, out[0], {}, clip, {}, out[1], out[2]);
                 });
  return result;
}

void expect_close(const std::vector<float>& actual, const std::vector<double>& expected,
                  const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    // 1e-7 is one rounding of a weight near 1, which a weight near 0 may have been.
    EXPECT_NEAR(actual[i], expected[i], 1e-6 * std::fabs(expected[i]) + 1e-7)
        << what << " element " << i;
  }
}

void expect_golden(const std::string& name, std::unique_ptr<Optimizer> optimizer) {
  const auto& steps = lines().at(name);
  const auto& gradients = lines().at("gradient");
  ASSERT_EQ(steps.size(), 20u);
  Weights weights(*optimizer, floats(lines().at("start")[0]));
  for (std::size_t i = 0; i < steps.size(); ++i) {
    weights.step(
        *optimizer,
        {.number = static_cast<std::int64_t>(i) + 1, .learning_rate = optimizer->learning_rate()},
        floats(gradients[i]));
    expect_close(weights.x, steps[i], name + " step " + std::to_string(i + 1));
  }
}

TEST(Optimizer, SgdFollowsPyTorch) {
  expect_golden("sgd", make_sgd({.learning_rate = 0.1}));
  expect_golden("sgd_decay", make_sgd({.learning_rate = 0.1, .weight_decay = 0.05}));
  expect_golden("sgd_momentum", make_sgd({.learning_rate = 0.1, .momentum = 0.9}));
  expect_golden(
      "sgd_nesterov",
      make_sgd({.learning_rate = 0.05, .momentum = 0.9, .weight_decay = 0.02, .nesterov = true}));
}

TEST(Optimizer, AdamFollowsPyTorch) {
  expect_golden("adam", make_adam({.learning_rate = 0.01}));
  expect_golden(
      "adam_decay",
      make_adam({.learning_rate = 0.02, .beta1 = 0.8, .beta2 = 0.99, .weight_decay = 0.1}));
  expect_golden(
      "adamw",
      make_adam({.learning_rate = 0.02, .epsilon = 1e-6, .weight_decay = 0.1, .decoupled = true}));
}

TEST(Optimizer, RmsPropFollowsPyTorch) {
  expect_golden("rmsprop", make_rmsprop({.learning_rate = 0.01}));
  expect_golden("rmsprop_momentum",
                make_rmsprop({.learning_rate = 0.01, .alpha = 0.9, .momentum = 0.8}));
  expect_golden("rmsprop_decay", make_rmsprop({.learning_rate = 0.01, .weight_decay = 0.1}));
}

TEST(Optimizer, ClippingFollowsPyTorch) {
  const auto optimizer = make_sgd({.learning_rate = 0.1, .momentum = 0.9});
  Weights weights(*optimizer, floats(lines().at("start")[0]));
  for (std::size_t i = 0; i < 20; ++i) {
    std::vector<float> gradient = floats(lines().at("gradient")[i]);
    const auto [norm, factor] = norm_of(gradient, 0.5);
    const double expected = lines().at("clip_norms")[0][i];
    EXPECT_NEAR(norm, expected, 1e-6 * expected);
    weights.step(*optimizer,
                 {.number = static_cast<std::int64_t>(i) + 1,
                  .learning_rate = 0.1,
                  .gradient_scale = factor},
                 gradient);
    expect_close(weights.x, lines().at("sgd_clipped")[i], "step " + std::to_string(i + 1));
  }
}

std::vector<std::unique_ptr<Optimizer>> every_optimizer() {
  std::vector<std::unique_ptr<Optimizer>> all;
  all.push_back(make_sgd({.learning_rate = 0.1, .weight_decay = 0.01}));
  all.push_back(make_sgd({.learning_rate = 0.1, .momentum = 0.9, .nesterov = true}));
  all.push_back(make_adam({.weight_decay = 0.1}));
  all.push_back(make_adam({.weight_decay = 0.1, .decoupled = true}));
  all.push_back(make_rmsprop({.weight_decay = 0.1}));
  all.push_back(make_rmsprop({.momentum = 0.9}));
  return all;
}

// However the arena is cut, at whatever alignment, each element's bits stay.
TEST(Optimizer, SlicesGiveTheBitsOfTheWhole) {
  constexpr std::size_t kSize = 1003;
  const Random random({.seed = 3});
  for (const auto& optimizer : every_optimizer()) {
    std::vector<float> start(kSize);
    for (std::size_t i = 0; i < kSize; ++i) start[i] = static_cast<float>(random.normal(i));
    Weights whole(*optimizer, start), cut(*optimizer, start);
    for (std::int64_t number = 1; number <= 5; ++number) {
      std::vector<float> gradient(kSize);
      for (std::size_t i = 0; i < kSize; ++i) {
        gradient[i] = static_cast<float>(random.normal(1000000 * number + i));
      }
      const Optimizer::Step step{.number = number,
                                 .learning_rate = 0.01 / static_cast<double>(number),
                                 .gradient_scale = 0.7f};
      whole.step(*optimizer, step, gradient);
      for (const auto& [first, last] :
           {std::pair{0, 1}, std::pair{1, 18}, std::pair{18, 19}, std::pair{19, 500},
            std::pair{500, 531}, std::pair{531, 1003}}) {
        cut.step(*optimizer, step, gradient, static_cast<std::size_t>(first),
                 static_cast<std::size_t>(last));
      }
    }
    EXPECT_EQ(whole.x, cut.x) << ::testing::PrintToString(optimizer->state_names());
    EXPECT_EQ(whole.states, cut.states) << ::testing::PrintToString(optimizer->state_names());
    EXPECT_NE(whole.x, start);
  }
}

TEST(Optimizer, NamesItsStates) {
  EXPECT_TRUE(make_sgd({})->state_names().empty());
  EXPECT_EQ(make_sgd({.momentum = 0.9})->state_names(), std::vector<std::string>{"sgd.velocity"});
  EXPECT_EQ(make_adam({})->state_names(), (std::vector<std::string>{"adam.m", "adam.v"}));
  EXPECT_EQ(make_rmsprop({})->state_names(), std::vector<std::string>{"rmsprop.v"});
  EXPECT_EQ(make_rmsprop({.momentum = 0.5})->state_names(),
            (std::vector<std::string>{"rmsprop.v", "rmsprop.velocity"}));
}

void expect_schedule(const std::string& name, const Schedule& schedule) {
  const auto& factors = lines().at("schedule_" + name)[0];
  ASSERT_EQ(factors.size(), 40u);
  for (std::int64_t step = 0; step < 40; ++step) {
    EXPECT_NEAR(schedule.factor(step, 40), factors[static_cast<std::size_t>(step)], 1e-12)
        << name << " step " << step;
  }
}

TEST(Schedule, FollowsPyTorch) {
  expect_schedule("step", {.kind = Schedule::Kind::step, .every_steps = 7, .gamma = 0.3});
  expect_schedule("cosine", {.kind = Schedule::Kind::cosine, .last_factor = 0.1});
  expect_schedule("linear", {.kind = Schedule::Kind::linear, .last_factor = 0.25});
}

TEST(Schedule, ConstantIsOne) {
  for (const std::int64_t step : {0, 1, 99, 1000}) EXPECT_EQ(Schedule{}.factor(step, 100), 1.0);
}

TEST(Schedule, WarmUpClimbsAndTheRestStartsAfterIt) {
  for (const auto kind : {Schedule::Kind::constant, Schedule::Kind::step, Schedule::Kind::cosine,
                          Schedule::Kind::linear}) {
    const Schedule plain{.kind = kind, .every_steps = 10, .last_factor = 0.2};
    Schedule warm = plain;
    warm.warmup_steps = 5;
    for (std::int64_t step = 0; step < 5; ++step) {
      EXPECT_DOUBLE_EQ(warm.factor(step, 45), static_cast<double>(step + 1) / 5);
    }
    for (std::int64_t step = 5; step < 45; ++step) {
      EXPECT_DOUBLE_EQ(warm.factor(step, 45), plain.factor(step - 5, 40));
    }
  }
}

TEST(Schedule, KeepsTheLastFactorAfterTheEnd) {
  for (const auto kind : {Schedule::Kind::cosine, Schedule::Kind::linear}) {
    const Schedule schedule{.kind = kind, .warmup_steps = 3, .last_factor = 0.2};
    EXPECT_DOUBLE_EQ(schedule.factor(20, 20), 0.2);
    EXPECT_DOUBLE_EQ(schedule.factor(500, 20), 0.2);
  }
}

TEST(Norm, AddsBlocksOfAnySize) {
  for (const std::int64_t size : {1, 4095, 4096, 4097, 10000}) {
    std::vector<float> values(static_cast<std::size_t>(size));
    double expected = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(std::sin(static_cast<double>(i) + 1));
      expected += static_cast<double>(values[i]) * values[i];
    }
    EXPECT_EQ(norm_blocks(size), (size + 4095) / 4096);
    const double norm = norm_of(values, 0).norm;
    EXPECT_NEAR(norm, std::sqrt(expected), 1e-13 * norm);
  }
}

TEST(Norm, ClipsOnlyWhatIsLonger) {
  const auto factor_of = [](float value, double clip) {
    std::vector<float> gradient{0, value};
    return norm_of(gradient, clip).factor;
  };
  EXPECT_EQ(factor_of(0.5f, 1.0), 1.0f);
  EXPECT_EQ(factor_of(0.0f, 1.0), 1.0f);
  EXPECT_EQ(factor_of(4.0f, 0.0), 1.0f) << "0 is no clipping";
  EXPECT_FLOAT_EQ(factor_of(4.0f, 1.0), 0.25f);
  EXPECT_TRUE(std::isnan(factor_of(std::numeric_limits<float>::quiet_NaN(), 1.0)));
}

// What the device decides: the factor on the gradient, and whether anything changes.
TEST(Optimizer, IsControlledFromMemory) {
  constexpr std::size_t kSize = 1003;
  const Random random({.seed = 6});
  std::vector<float> start(kSize), gradient(kSize);
  for (std::size_t i = 0; i < kSize; ++i) {
    start[i] = static_cast<float>(random.normal(i));
    gradient[i] = static_cast<float>(random.normal(5000 + i));
  }
  for (const auto& optimizer : every_optimizer()) {
    const std::string names = ::testing::PrintToString(optimizer->state_names());
    Weights given(*optimizer, start), told(*optimizer, start);
    std::vector<float> open{1, 0.7f}, shut{0, 0.7f};
    given.step(*optimizer, {.number = 1, .learning_rate = 0.01, .gradient_scale = 0.7f}, gradient);
    told.step(*optimizer, {.number = 1, .learning_rate = 0.01}, gradient, open);
    EXPECT_EQ(told.x, given.x) << names;
    EXPECT_EQ(told.states, given.states) << names;
    std::vector<float> bad = gradient;
    bad[3] = std::numeric_limits<float>::quiet_NaN();
    told.step(*optimizer, {.number = 2, .learning_rate = 0.01}, bad, shut);
    EXPECT_EQ(told.x, given.x) << names;
    EXPECT_EQ(told.states, given.states) << names;
    told.step(*optimizer, {.number = 2, .learning_rate = 0.01}, gradient, open);
    EXPECT_NE(told.x, given.x) << names;
  }
}

}  // namespace
}  // namespace peal
