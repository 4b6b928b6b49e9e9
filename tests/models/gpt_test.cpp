// GPT-2 against the same model made of PyTorch's layers.
#include "models/gpt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>

#include "core/base/error.h"
#include "core/graph/fusion.h"
#include "core/kernels/kernels.h"
#include "tests/golden/golden_file.h"
#include "tests/graph/session.h"

namespace peal::gpt_test {
namespace {

using testing::Contains;
using testing::HasSubstr;
using testing::Not;

const golden::Arrays& goldens() {
  static const golden::Arrays arrays = golden::read("gpt.bin");
  return arrays;
}

ModelSpec gpt_spec(int vocabulary, int context, int layers, int heads, int width) {
  ModelSpec spec;
  GptSpec& gpt = *spec.mutable_gpt();
  gpt.set_vocabulary(vocabulary);
  gpt.set_context(context);
  gpt.set_layers(layers);
  gpt.set_heads(heads);
  gpt.set_width(width);
  gpt.set_dropout(0);
  return spec;
}

void load_parameters(Session& session, const std::string& name) {
  for (const ArenaEntry& entry : session.table().parameters) {
    const golden::Array& array = goldens().at(name + "/parameter/" + entry.name);
    ASSERT_EQ(array.shape, entry.shape) << entry.name;
    session.set_parameter(entry.name, array.f32);
  }
}

void expect_close(const std::vector<float>& actual, const golden::Array& expected,
                  const std::string& what) {
  ASSERT_EQ(actual.size(), expected.f32.size()) << what;
  double largest = 1e-2;
  for (const float value : expected.f32) largest = std::max(largest, std::abs(double{value}));
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected.f32[i], 1e-5 * largest) << what << " element " << i;
}

TEST(Gpt, FirstStepIsPyTorchs) {
  Graph graph;
  build_model(gpt_spec(11, 6, 2, 2, 8), 3, graph);
  Session session(graph, /*training=*/true);
  load_parameters(session, "step");
  const auto& x = goldens().at("step/x");
  session.set_input("x", x.shape, x.i32, DType::i32);
  session.set_input("labels", x.shape, goldens().at("step/labels").i32, DType::i32);
  session.set_input("weight", {3}, goldens().at("step/weight").f32);
  session.forward({}, /*loss_scale=*/0.5f);
  session.backward();
  expect_close(session.output("logits"), goldens().at("step/logits"), "logits");
  expect_close(session.slot("loss"), goldens().at("step/loss"), "loss");
  for (const ArenaEntry& entry : session.table().parameters)
    expect_close(session.gradient(entry.name), goldens().at("step/gradient/" + entry.name),
                 entry.name);
}

// The perceptron of each block is one op, and both residuals are added by the product before them,
// in evaluation also behind a dropout. One position at a time (`peal generate`) is no other.
TEST(Gpt, ProductsAddTheResidualsAndGelu) {
  const auto merged = [](const Graph& graph, bool training) {
    const GradientFlow flow(graph);
    std::map<std::string, int> counts;
    for (const PlanStep& step : make_steps(graph, flow, kernels(kCpu), training, /*fuse=*/true))
      if (step.op.find('+') != std::string::npos) ++counts[step.op];
    return counts;
  };
  using Counts = std::map<std::string, int>;
  constexpr int kLayers = 3;
  for (const float dropout : {0.0f, 0.1f}) {
    ModelSpec spec = gpt_spec(11, 6, kLayers, 2, 8);
    spec.mutable_gpt()->set_dropout(dropout);
    Graph graph, next;
    build_model(spec, 3, graph);
    build_gpt_text(spec.gpt(), 1, /*next=*/true, next);
    const std::string perceptron = "affine+gelu_tanh+affine";
    const Counts plain = {{"affine+add", kLayers}, {perceptron + "+add", kLayers}};
    if (dropout > 0) {
      const Counts passed = {{"affine+dropout+add", kLayers},
                             {perceptron + "+dropout+add", kLayers}};
      EXPECT_EQ(merged(graph, true), (Counts{{perceptron, kLayers}}));
      EXPECT_EQ(merged(graph, false), passed);
      EXPECT_EQ(merged(next, false), passed);
    } else {
      for (const bool training : {true, false}) EXPECT_EQ(merged(graph, training), plain);
      EXPECT_EQ(merged(next, false), plain);
    }
  }
}

// What passes through all blocks has one gradient, to which each of a block's two norms adds
// itself; so does the embedding to what the head has for the table of tokens.
TEST(Gpt, GradientsAreNeverCopiedNorAddedUpByCalls) {
  constexpr int kLayers = 3;
  for (const float dropout : {0.0f, 0.1f}) {
    ModelSpec spec = gpt_spec(11, 6, kLayers, 2, 8);
    spec.mutable_gpt()->set_dropout(dropout);
    Graph graph;
    build_model(spec, 3, graph);
    for (const bool recompute : {false, true}) {
      const std::vector<std::string> calls =
          Plan(graph, make_parameter_table(graph), kCpu, true, {.recompute = recompute})
              .backward_calls();
      const auto count = [&](const char* call) {
        return std::count(calls.begin(), calls.end(), call);
      };
      EXPECT_EQ(count("copy"), 0);
      EXPECT_EQ(count("accumulate"), 0);
    }
  }
}

// What stands behind a place changes nothing before it, and a graph of fewer positions has the same
// parameters: `peal generate` does not compute the whole context for a short text.
TEST(Gpt, FewerPositionsAreTheBeginningOfAll) {
  constexpr std::int64_t kBatch = 3, kContext = 6, kVocabulary = 11;
  const auto& x = goldens().at("step/x");
  const auto& logits = goldens().at("step/logits");
  for (std::int64_t length = 1; length <= kContext; ++length) {
    Graph graph;
    build_model(gpt_spec(11, 6, 2, 2, 8), kBatch, graph, length);
    Session session(graph, /*training=*/false);
    load_parameters(session, "step");
    std::vector<std::int32_t> begin;
    golden::Array expected;
    for (std::int64_t row = 0; row < kBatch; ++row) {
      for (std::int64_t t = 0; t < length; ++t) {
        const std::int64_t at = row * kContext + t;
        begin.push_back(x.i32[static_cast<std::size_t>(at)]);
        const auto first = logits.f32.begin() + at * kVocabulary;
        expected.f32.insert(expected.f32.end(), first, first + kVocabulary);
      }
    }
    const std::vector<std::int32_t> labels(begin.size());
    session.set_input("x", {kBatch, length}, begin, DType::i32);
    session.set_input("labels", {kBatch, length}, labels, DType::i32);
    session.set_input("weight", {kBatch}, std::vector<float>(kBatch));
    session.forward();
    expect_close(session.output("logits"), expected, cat(length, " positions"));
  }
  Graph graph;
  EXPECT_THROW(build_model(gpt_spec(11, 6, 2, 2, 8), 1, graph, 7), Error);
}

// One parameter's AdamW, as torch.optim.AdamW with its defaults but for what is given here.
class AdamW {
 public:
  explicit AdamW(const std::vector<float>& start) : x_(start), m_(x_.size()), v_(x_.size()) {}

  const std::vector<float>& step(int t, std::vector<float> gradient) {
    const Shape shape{static_cast<std::int64_t>(x_.size())};
    const auto view = [&](std::vector<float>& v) {
      return Tensor{.data = v.data(), .shape = shape};
    };
    Stream s;
    kernels(kCpu).adam(s,
                       {.learning_rate = 3e-3,
                        .beta1 = 0.9,
                        .beta2 = 0.95,
                        .epsilon = 1e-8,
                        .weight_decay = 0.1,
                        .decoupled = true,
                        .correction1 = 1 - std::pow(0.9, t),
                        .correction2 = 1 - std::pow(0.95, t),
                        .gradient_scale = 1},
                       view(gradient), view(m_), view(v_), view(x_));
    return x_;
  }

 private:
  std::vector<float> x_, m_, v_;
};

// As the trainer does it: logits make room for their gradient.
void expect_losses_of_pytorch(Precision precision, double tolerance) {
  constexpr std::int64_t kSteps = 10, kBatch = 8, kTime = 16;
  Graph graph;
  build_model(gpt_spec(65, kTime, 4, 4, 32), kBatch, graph);
  Session session(graph, /*training=*/true, {.precision = precision, .outputs = false});
  EXPECT_THAT(session.plan().backward_calls(), Not(Contains("softmax_cross_entropy backward")))
      << "the loss writes its gradient in forward";
  load_parameters(session, "run");
  std::map<std::string, AdamW> optimizers;
  for (const ArenaEntry& entry : session.table().parameters)
    optimizers.emplace(entry.name, goldens().at("run/parameter/" + entry.name).f32);
  const std::vector<std::int32_t>& tokens = goldens().at("run/tokens").i32;
  session.set_input("weight", {kBatch}, std::vector<float>(kBatch, 1.0f));
  for (std::int64_t step = 0; step < kSteps; ++step) {
    std::vector<std::int32_t> x, labels;
    for (std::int64_t i = 0; i < kBatch * kTime; ++i) {
      const auto at =
          static_cast<std::size_t>((step * kBatch + i / kTime) * (kTime + 1) + i % kTime);
      x.push_back(tokens[at]);
      labels.push_back(tokens[at + 1]);
    }
    session.set_input("x", {kBatch, kTime}, x, DType::i32);
    session.set_input("labels", {kBatch, kTime}, labels, DType::i32);
    session.forward({}, 1.0f / kBatch);
    session.backward();
    EXPECT_NEAR(session.slot("loss")[0] / kBatch,
                goldens().at("run/losses").f32[static_cast<std::size_t>(step)], tolerance)
        << "step " << step;
    for (auto& [name, optimizer] : optimizers)
      session.set_parameter(name,
                            optimizer.step(static_cast<int>(step) + 1, session.gradient(name)));
  }
  const auto& losses = goldens().at("run/losses").f32;
  EXPECT_LT(losses.back(), losses.front() - 0.1f) << "nothing was learned, so nothing was shown";
}

TEST(Gpt, TenStepsHavePyTorchsLosses) {
  expect_losses_of_pytorch(Precision::f32, 1e-4);
}

// A loss is as near as 65 logits around 0 are that were rounded to 8 bits.
TEST(Gpt, TenStepsOfStoredActivationsHaveThemNearly) {
  for (const Precision precision : {Precision::bf16, Precision::f16})
    if (kernels(test_device().device).has_precision(precision))
      expect_losses_of_pytorch(precision, 4e-3);
}

TEST(Gpt, SmallHasThe124MParametersOfHuggingFace) {
  ModelSpec spec;
  spec.mutable_gpt();
  const ModelInfo info = model_info(spec);
  EXPECT_EQ(info.record_shape, Shape({1024}));
  EXPECT_EQ(info.vocabulary, 50257);
  EXPECT_EQ(info.classes, 0);
  Graph graph;
  build_model(spec, 1, graph);
  const ParameterTable table = make_parameter_table(graph);
  std::int64_t count = 0;
  std::map<std::string, Shape> shapes;
  for (const ArenaEntry& entry : table.parameters) {
    count += entry.shape.numel();
    shapes[entry.name] = entry.shape;
  }
  EXPECT_EQ(count, 124439808);
  EXPECT_EQ(table.parameters.size(), 148u);
  EXPECT_EQ(shapes.at("transformer.wte.weight"), Shape({50257, 768}));
  EXPECT_EQ(shapes.at("transformer.h.11.attn.c_attn.weight"), Shape({768, 2304}));
  EXPECT_EQ(shapes.at("transformer.h.0.mlp.c_proj.weight"), Shape({3072, 768}));
  EXPECT_EQ(table.parameters.back().name, "transformer.wte.weight") << "final with its embedding";
}

// Deviations of first weights (the embedding's 0.02, a residual projection's 0.02 / sqrt(2 * 8)).
TEST(Gpt, StartsAsGpt2Does) {
  Graph graph;
  build_model(gpt_spec(64, 8, 8, 2, 64), 1, graph);
  const ParameterTable table = make_parameter_table(graph);
  std::vector<std::byte> parameters(table.gradient_bytes), states(table.state_bytes);
  initialize(table, 1, parameters.data(), states.data());
  const auto deviation = [&](const std::string& name) {
    for (const ArenaEntry& entry : table.parameters) {
      if (entry.name != name) continue;
      const auto* x = reinterpret_cast<const float*>(parameters.data() + entry.offset);
      double squares = 0;
      for (std::int64_t i = 0; i < entry.shape.numel(); ++i) squares += double{x[i]} * x[i];
      return std::sqrt(squares / static_cast<double>(entry.shape.numel()));
    }
    return -1.0;
  };
  EXPECT_NEAR(deviation("transformer.wte.weight"), 0.02, 1e-3);
  EXPECT_NEAR(deviation("transformer.h.3.mlp.c_fc.weight"), 0.02, 1e-3);
  EXPECT_NEAR(deviation("transformer.h.3.mlp.c_proj.weight"), 0.005, 2e-4);
  EXPECT_NEAR(deviation("transformer.h.7.attn.c_proj.weight"), 0.005, 3e-4);
  EXPECT_EQ(deviation("transformer.h.0.ln_1.weight"), 1);
  EXPECT_EQ(deviation("transformer.h.0.mlp.c_fc.bias"), 0);
}

TEST(Gpt, RefusesHeadsThatDoNotDivideTheWidth) {
  try {
    model_info(gpt_spec(11, 6, 2, 3, 8));
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(),
                HasSubstr("model.gpt.heads: 3 heads do not divide model.gpt.width 8"));
  }
}

TEST(Gpt, KnowsWhatOthersStoreBesideItsWeights) {
  for (const char* name : {"lm_head.weight", "transformer.h.0.attn.bias", "h.3.attn.masked_bias"})
    EXPECT_TRUE(gpt_ignores_tensor(name)) << name;
  for (const char* name : {"transformer.wte.weight", "transformer.h.0.attn.c_attn.bias"})
    EXPECT_FALSE(gpt_ignores_tensor(name)) << name;
}

}  // namespace
}  // namespace peal::gpt_test
