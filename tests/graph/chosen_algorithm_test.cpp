// PlanOptions::choose: it is asked for each product and each pass of a convolution as the device
// gets it, and its answer is what the device gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/kernels/algorithm_choices.h"
#include "tests/graph/plan_helpers.h"

namespace peal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// x (4, 6) through a perceptron, a dense layer and a product of two values.
void record(Graph& graph) {
  const auto weight = [&](const char* name, const Shape& shape) {
    return graph.parameter(name, shape, Initializer::uniform(0.3f));
  };
  const Value x = graph.input("x", {4, 6});
  const Value hidden = gelu_tanh(affine(x, weight("w1", {6, 8}), weight("b1", {8})));
  const Value y = affine(hidden, weight("w2", {8, 5}), weight("b2", {5}));
  const Value z = relu(dense(y, weight("w3", {3, 5}), weight("b3", {3})));
  graph.set_loss(total(matmul(reshape(z, {2, 2, 3}), weight("w4", {3, 7}))));
}

std::vector<std::string> asked_for(bool training, Precision precision = Precision::f32) {
  Graph graph;
  record(graph);
  std::vector<std::string> products;
  const auto choose = [&](const MatmulSpec& product) {
    products.push_back(text_of(product));
    return 0;
  };
  const Session session(graph, training, {.precision = precision, .choose = {.product = choose}});
  return products;
}

TEST(ChosenAlgorithms, AllAreAskedFor) {
  EXPECT_THAT(asked_for(/*training=*/false),
              ElementsAre("m=4 n=8 k=6 bias activation=gelu_tanh", "m=4 n=5 k=8 bias",
                          "m=4 n=3 k=5 transpose_b bias activation=relu", "m=4 n=7 k=3"));
  EXPECT_THAT(
      asked_for(/*training=*/true),
      ElementsAre("m=4 n=8 k=6 bias activation=gelu_tanh keeps_before", "m=4 n=5 k=8 bias",
                  "m=8 n=5 k=4 transpose_a sums=b",
                  "m=4 n=8 k=5 transpose_b activation=gelu_tanh slope",
                  "m=6 n=8 k=4 transpose_a sums=b", "m=4 n=3 k=5 transpose_b bias activation=relu",
                  "m=3 n=5 k=4 transpose_a sums=a", "m=4 n=5 k=3", "m=4 n=7 k=3",
                  "m=3 n=7 k=4 transpose_a", "m=4 n=3 k=7 transpose_b"));
  if (!stores_bf16()) return;
  EXPECT_THAT(asked_for(/*training=*/false, Precision::bf16),
              ::testing::Contains("m=4 n=5 k=8 bias precision=bf16 operands=bf16 result=bf16"));
}

// A CPU has one way for each; a GPU not as many as these.
TEST(ChosenAlgorithms, TheAnswerIsTheDevices) {
  Graph graph;
  record(graph);
  const auto gradients = [&](const ChooseAlgorithm& choose) {
    Session session(graph, /*training=*/true, {.choose = choose});
    set_noise(session, "x", {4, 6});
    session.forward(kPass);
    session.backward();
    return session.gradient("w1");
  };
  const ChooseAlgorithm last{
      .product = [](const MatmulSpec&) { return AlgorithmChoices::kMostAlgorithm; }};
  if (test_device().device.kind == Device::Kind::cpu) {
    EXPECT_EQ(gradients(last), gradients({}));
  } else {
    EXPECT_THAT(message_of([&] { gradients(last); }), HasSubstr("algorithm 63"));
  }
}

// ---- Convolutions ----------------------------------------------------------------------------

// x (2, 3, 8, 8) through three of them; the last one's weights are no parameter.
void record_convolutions(Graph& graph) {
  const Value x = graph.input("x", {2, 3, 8, 8});
  const Value w1 = graph.parameter("w1", {6, 3, 3, 3}, Initializer::uniform(0.3f));
  const Value b1 = graph.parameter("b1", {6}, Initializer::uniform(0.3f));
  const Value w2 = graph.parameter("w2", {4, 3, 1, 1}, Initializer::uniform(0.3f));
  const Value y = relu(conv2d(x, w1, b1, {.padding = {1, 1}}));
  const Value z = conv2d(y, w2, {}, {.stride = {2, 2}, .groups = 2});
  graph.set_loss(total(conv2d(z, graph.input("w3", {2, 4, 2, 2}), {})));
}

std::vector<std::string> convolutions_asked_for(bool training, bool deterministic = true) {
  Graph graph;
  record_convolutions(graph);
  std::vector<std::string> calls;
  const auto choose = [&](const Conv2dSpec& spec, ConvPass pass) {
    EXPECT_EQ(spec.training, training);
    calls.push_back(text_of(ConvCall(spec, pass)));
    return 0;
  };
  const Session session(graph, training,
                        {.deterministic = deterministic, .choose = {.convolution = choose}});
  return calls;
}

TEST(ChosenAlgorithms, PassesOfConvolutionsAreAskedFor) {
  const std::string first = "x=2x3x8x8 w=6x3x3x3 padding=1x1",
                    second = "x=2x6x8x8 w=4x3x1x1 stride=2x2 groups=2",
                    third = "x=2x4x4x4 w=2x4x2x2";
  const auto forward = [](const std::string& of) { return "pass=forward " + of; };
  EXPECT_THAT(
      convolutions_asked_for(/*training=*/false),
      ElementsAre(forward(first) + " bias activation=relu", forward(second), forward(third)));
  EXPECT_THAT(
      convolutions_asked_for(/*training=*/true),
      ElementsAre(forward(first) + " bias activation=relu", "pass=backward_weights " + first,
                  forward(second), "pass=backward_weights " + second,
                  "pass=backward_data " + second, forward(third), "pass=backward_data " + third));
  for (const std::string& call : convolutions_asked_for(/*training=*/true, false))
    EXPECT_TRUE(call.ends_with(" fast")) << call;
}

// A CPU has one way for each pass; a GPU not as many as these.
TEST(ChosenAlgorithms, TheAnswerIsThatOfThePass) {
  Graph graph;
  record_convolutions(graph);
  const auto gradients = [&](const ChooseAlgorithm& choose) {
    Session session(graph, /*training=*/true, {.choose = choose});
    set_noise(session, "x", {2, 3, 8, 8});
    set_noise(session, "w3", {2, 4, 2, 2});
    session.forward(kPass);
    session.backward();
    return session.gradient("w1");
  };
  for (int pass = 0; pass < kConvPasses; ++pass) {
    const ChooseAlgorithm last{.convolution = [=](const Conv2dSpec&, ConvPass of) {
      return static_cast<int>(of) == pass ? AlgorithmChoices::kMostAlgorithm : 0;
    }};
    if (test_device().device.kind == Device::Kind::cpu) {
      EXPECT_EQ(gradients(last), gradients({}));
    } else {
      constexpr const char* kNames[] = {"forward", "backward_data", "backward_weights"};
      EXPECT_THAT(message_of([&] { gradients(last); }),
                  HasSubstr(cat("no engine 63 for ", kNames[pass])));
    }
  }
}

}  // namespace
}  // namespace peal
