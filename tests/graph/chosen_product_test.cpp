// PlanOptions::choose_product: it is asked for each product as the device gets it, and its answer
// is what the device gets.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/kernels/product_choices.h"
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
  const ChooseProduct choose = [&](const MatmulSpec& product) {
    products.push_back(text_of(product));
    return 0;
  };
  const Session session(graph, training, {.precision = precision, .choose_product = choose});
  return products;
}

TEST(ChosenProducts, AllAreAskedFor) {
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
TEST(ChosenProducts, TheAnswerIsTheDevices) {
  Graph graph;
  record(graph);
  const auto gradients = [&](const ChooseProduct& choose) {
    Session session(graph, /*training=*/true, {.choose_product = choose});
    set_noise(session, "x", {4, 6});
    session.forward(kPass);
    session.backward();
    return session.gradient("w1");
  };
  const auto last = [](const MatmulSpec&) { return ProductChoices::kMostAlgorithm; };
  if (test_device().device.kind == Device::Kind::cpu) {
    EXPECT_EQ(gradients(last), gradients({}));
  } else {
    EXPECT_THAT(message_of([&] { gradients(last); }), HasSubstr("algorithm 63"));
  }
}

}  // namespace
}  // namespace peal
