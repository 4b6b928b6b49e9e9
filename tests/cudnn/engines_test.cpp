// What cuDNN plans for an H100, on a machine that has none: that every convolution of a residual
// network has engines, on tensors of the form that is quick, and how a table's numbers name them.
// Needs libcudnn; nothing is run. Attention, and bias with halves, take engines that are compiled
// when they are asked for, for which there must be a driver.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/kernels/cuda/conv_plans.h"
#include "core/kernels/cuda/fold.h"

namespace peal::cuda {
namespace {

using ::testing::HasSubstr;

const std::string& h100() {
  static const std::string text = read_file(PEAL_SOURCE_DIR "/tests/cudnn/h100.json");
  return text;
}

constexpr int kAll = 1000;

std::set<std::string> names_of(const Conv2dSpec& spec, ConvPass pass, const ConvForm& form) {
  std::set<std::string> names;
  std::string why;
  for (const CudnnEngine& engine : conv_engines(h100(), spec, pass, form, kAll, why)) {
    EXPECT_LE(engine.scratch_bytes, std::size_t{1} << 30) << engine.name;
    names.insert(engine.name);
  }
  return names;
}

// Whether those of `few` are among those of `many`.
bool are_among(const std::set<std::string>& few, const std::set<std::string>& many) {
  return !few.empty() && std::ranges::includes(many, few);
}

struct Layer {
  std::string name;
  Conv2dSpec spec;
};

Layer layer(const std::string& name, std::int64_t channels, std::int64_t size, std::int64_t outputs,
            std::int64_t kernel, std::int64_t stride) {
  Conv2dSpec spec{.x = {256, channels, size, size}, .w = {outputs, channels, kernel, kernel}};
  for (int i = 0; i < 2; ++i) {
    spec.stride[i] = stride;
    spec.padding[i] = kernel / 2;
  }
  return {name, spec};
}

// ResNet-50's, v1.5, each once.
std::vector<Layer> layers() {
  std::vector<Layer> all = {layer("stem", 3, 224, 64, 7, 2)};
  all[0].spec.needs_dx = false;
  std::int64_t from = 64, size = 56;
  for (std::int64_t width = 64; width <= 512; width *= 2) {
    const std::int64_t stride = width == 64 ? 1 : 2, to = 4 * width, smaller = size / stride;
    const std::string stage = cat("width ", width, ", ");
    all.push_back(layer(stage + "first", from, size, width, 1, 1));
    all.push_back(layer(stage + "first 3x3", width, size, width, 3, stride));
    all.push_back(layer(stage + "last", width, smaller, to, 1, 1));
    all.push_back(layer(stage + "shortcut", from, size, to, 1, stride));
    all.push_back(layer(stage + "next", to, smaller, width, 1, 1));
    all.push_back(layer(stage + "next 3x3", width, smaller, width, 3, 1));
    from = to;
    size = smaller;
  }
  return all;
}

struct NoPlan final : CudnnPlan {
  std::size_t scratch_bytes() const override { return 0; }
  void run(Stream&, std::initializer_list<const Tensor*>, const Tensor&) override {}
};

// A plan that stands for the engine which the spec's algorithm names.
CudnnPlan* find_on_h100(const Conv2dSpec& spec, ConvPass pass, const ConvForm& form,
                        std::string& why) {
  static NoPlan plan;
  const int number = spec.algorithm(pass);
  const std::vector<CudnnEngine> engines = conv_engines(h100(), spec, pass, form, number + 1, why);
  return std::ssize(engines) > number ? &plan : nullptr;
}

ConvPlans plans_for(const Conv2dSpec& spec) {
  std::string why;
  const auto plans = choose_conv_plans(spec, /*own_weights=*/false, find_on_h100, why);
  EXPECT_TRUE(plans.has_value()) << why;
  return plans.value_or(ConvPlans());
}

bool has_all(const ConvPlans& plans, const Conv2dSpec& spec) {
  return plans.forward != nullptr && plans.backward_weights != nullptr &&
         (plans.backward_data != nullptr) == spec.needs_dx;
}

TEST(Convolutions, OfHalvesLieChannelsLast) {
  for (const DType type : {DType::bf16, DType::f16}) {
    for (auto [name, spec] : layers()) {
      SCOPED_TRACE(cat(name_of(type), ", ", name));
      spec.stored = type;
      const ConvPlans plans = plans_for(spec);
      EXPECT_TRUE(has_all(plans, spec));
      EXPECT_TRUE(plans.form.channels_last);
      EXPECT_EQ(plans.folded, name == "stem");
      EXPECT_EQ(plans.form.dw, type);  // in f32 cuDNN has none
      EXPECT_EQ(plans.inner.x, plans.folded ? folded(spec).x : spec.x);
    }
    Conv2dSpec small = layer("CIFAR's stem", 3, 32, 64, 3, 1).spec;
    small.stored = type;
    const ConvPlans filled = plans_for(small);
    EXPECT_TRUE(has_all(filled, small));
    EXPECT_EQ(filled.inner.x, (Shape{256, 8, 32, 32}));
    EXPECT_EQ(filled.inner.w, (Shape{64, 8, 3, 3}));
  }
}

TEST(Convolutions, TakeBiasAndReluIntoTheirKernel) {
  for (const Precision precision : {Precision::f32, Precision::tf32}) {
    for (auto [name, spec] : layers()) {
      SCOPED_TRACE(name);
      spec.precision = precision;
      EXPECT_FALSE(plans_for(spec).form.fused);
      spec.training = false;
      spec.bias = true;
      for (const Activation activation : {Activation::none, Activation::relu}) {
        spec.activation = activation;
        const ConvPlans plans = plans_for(spec);
        EXPECT_TRUE(plans.form.fused);
        EXPECT_NE(plans.forward, nullptr);
        EXPECT_EQ(plans.backward_weights, nullptr);
      }
    }
  }
}

// By tensor cores, which round to tf32, or without.
TEST(Convolutions, OfFloatsAreExactUnlessTheyMayRound) {
  for (auto [name, spec] : layers()) {
    SCOPED_TRACE(name);
    const ConvPlans exact = plans_for(spec);
    EXPECT_TRUE(has_all(exact, spec));
    EXPECT_FALSE(exact.form.channels_last);
    Conv2dSpec rounded = spec;
    rounded.precision = Precision::tf32;
    EXPECT_TRUE(has_all(plans_for(rounded), spec));
    for (const ConvPass pass :
         {ConvPass::forward, ConvPass::backward_data, ConvPass::backward_weights}) {
      const std::set<std::string> few = names_of(spec, pass, exact.form),
                                  many = names_of(rounded, pass, exact.form);
      EXPECT_TRUE(are_among(few, many));
      if (pass == ConvPass::forward) {
        EXPECT_LT(few.size(), many.size());
      }
    }
  }
}

// Numbers count on from the first, whoever asks; they are enough for a choice.
TEST(Engines, AreNumberedInOneOrder) {
  for (auto [name, spec] : layers()) {
    spec.stored = DType::bf16;
    const ConvPlans plans = plans_for(spec);
    for (int pass = 0; pass < kConvPasses; ++pass) {
      if (static_cast<ConvPass>(pass) == ConvPass::backward_data && !spec.needs_dx) continue;
      SCOPED_TRACE(cat(name, ", pass ", pass));
      const auto engines = [&](int most) {
        std::string why;
        return conv_engines(h100(), plans.inner, static_cast<ConvPass>(pass), plans.form, most,
                            why);
      };
      const std::vector<CudnnEngine> all = engines(kAll);
      EXPECT_GE(all.size(), 4u);
      EXPECT_LT(all.size(), std::size_t{kAll});
      std::set<std::string> names;
      for (const CudnnEngine& engine : all) {
        names.insert(engine.name);
        EXPECT_LE(engine.scratch_bytes, std::size_t{1} << 30) << engine.name;
      }
      EXPECT_GE(names.size(), 4u);
      const std::vector<CudnnEngine> three = engines(3);
      ASSERT_EQ(three.size(), 3u);
      for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(three[i].name, all[i].name);
    }
  }
}

TEST(Engines, OfANumberThatIsNotThereAreRefused) {
  Conv2dSpec spec = layers()[1].spec;
  spec.stored = DType::bf16;
  const auto refusal = [&](ConvPass pass, int number) {
    spec.algorithms[static_cast<int>(pass)] = number;
    std::string why, message;
    try {
      choose_conv_plans(spec, /*own_weights=*/false, find_on_h100, why);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      message = error.what();
    }
    spec.algorithms[static_cast<int>(pass)] = 0;
    return message;
  };
  EXPECT_EQ(refusal(ConvPass::backward_data, 1), "");
  EXPECT_THAT(refusal(ConvPass::backward_data, 1000),
              HasSubstr("no engine 1000 for backward_data of x (256, 64, 56, 56), weight (64, 64, "
                        "1, 1): "));
  EXPECT_THAT(refusal(ConvPass::forward, 1000), HasSubstr("engines are allowed here"));
}

// They are for jobs that ask for speed. Of halves, cuDNN names none that are quicker.
TEST(Engines, ThatAreNotDeterministicAreLeftOut) {
  Conv2dSpec spec = layers()[2].spec, fast = spec;
  fast.deterministic = false;
  for (const ConvPass pass : {ConvPass::backward_data, ConvPass::backward_weights}) {
    const std::set<std::string> few = names_of(spec, pass, {}), many = names_of(fast, pass, {});
    EXPECT_TRUE(are_among(few, many));
    EXPECT_LT(few.size(), many.size());
  }
}

TEST(Chip, WhatIsNoneIsRefused) {
  std::string why;
  for (const char* text : {"", "{}", "[1", "{\"deviceVer\": 900}"}) {
    try {
      conv_engines(text, layers()[0].spec, ConvPass::forward, {}, 1, why);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("the chip's properties"));
    }
  }
}

}  // namespace
}  // namespace peal::cuda
