// Plans whose activations are stored as bf16: what is kept so, and what never is.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/graph/plan_helpers.h"
#include "tests/halves.h"

namespace peal::stored_test {
namespace {

class StoredPlan : public testing::Test {
 protected:
  void SetUp() override {
    if (!stores_bf16()) GTEST_SKIP() << "no bf16 on " << to_string(test_device().device);
  }
};

constexpr std::int64_t kRows = 64, kColumns = 96;

Value weight_of(Graph& graph, int i) {
  return graph.parameter(cat("w", i), {kColumns, kColumns}, Initializer::uniform(0.1f));
}

TEST_F(StoredPlan, ActivationsTakeHalfTheMemory) {
  Graph graph;
  Value x = graph.input("x", {4096, kColumns});
  for (int i = 0; i < 6; ++i) x = gelu(matmul(x, weight_of(graph, i)));
  graph.set_loss(total(x));
  const ParameterTable table = make_parameter_table(graph);
  const auto bytes = [&](Precision precision) {
    return static_cast<double>(
        Plan(graph, table, test_device().device, true, {.precision = precision})
            .memory()
            .activations);
  };
  EXPECT_NEAR(bytes(Precision::bf16) / bytes(Precision::f32), 0.5, 0.06);
}

// The output of the plan, which is f32, holds a value that was stored: its low bits are 0.
TEST_F(StoredPlan, AValueIsRoundedAndAWeightIsNot) {
  Graph graph;
  const Value w = graph.parameter("w", {kRows}, Initializer::uniform(1));
  const Value y = scale(graph.input("x", {kRows}), 1);
  graph.set_output("y", y);
  graph.set_output("w", w);
  graph.set_loss(total(mul(y, w)));
  Session session(graph, true, {.precision = Precision::bf16});
  set_noise(session, "x", {kRows});
  session.forward();
  session.backward();
  const auto rounded = [](const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(),
                       [](float v) { return (std::bit_cast<std::uint32_t>(v) & 0xffffu) == 0; });
  };
  EXPECT_TRUE(rounded(session.output("y")));
  EXPECT_FALSE(rounded(session.output("w")));
}

// A weight's gradient is summed in f32: thousands of small parts that bf16 would lose.
TEST_F(StoredPlan, AWeightsGradientIsASumInF32) {
  constexpr std::int64_t kMany = 5000;
  Graph graph;
  const Value w = graph.parameter("w", {1, 32}, Initializer::constant(1));
  const Value bias = graph.parameter("bias", {32}, Initializer::constant(0));
  graph.set_loss(total(affine(graph.input("x", {kMany, 1}), w, bias)));
  Session session(graph, true, {.precision = Precision::bf16});
  session.set_input("x", {kMany, 1}, std::vector<float>(kMany, 1.0f));
  session.forward();
  session.backward();
  for (const char* name : {"w", "bias"})
    EXPECT_EQ(session.gradient(name), std::vector<float>(32, kMany)) << name;
}

// softmax computes in f32 only: its reader beside one of bf16 gives a gradient of either type.
TEST_F(StoredPlan, ReadersOfTwoTypesAddUp) {
  Graph graph;
  const Value w = graph.parameter("w", {kColumns, kColumns}, Initializer::uniform(0.1f));
  const Value y = matmul(graph.input("x", {kRows, kColumns}), w);
  const Value both = add(softmax(scale(y, 4)), scale(tanh(y), 0.01f));
  graph.set_loss(total(mul(both, graph.input("projection", {kRows, kColumns}))));
  const auto gradient = [&](Precision precision) {
    Session session(graph, true, {.precision = precision});
    set_noise(session, "x", {kRows, kColumns});
    set_noise(session, "projection", {kRows, kColumns});
    session.forward();
    session.backward();
    return session.gradient("w");
  };
  const std::vector<float> exact = gradient(Precision::f32), stored = gradient(Precision::bf16);
  EXPECT_LT(distance(stored, exact), 0.01);
  EXPECT_NE(exact, stored);
}

// A convolution's result in a layout of its own, read row-major in both types.
TEST_F(StoredPlan, AValueHasACopyOfEachType) {
  Graph graph;
  const Value x = graph.input("x", {2, 16, 8, 8});
  const Value w = graph.parameter("w", {32, 16, 3, 3}, Initializer::uniform(0.1f));
  const Value y = conv2d(x, w, {}, {.padding = {1, 1}});
  graph.set_output("means", reduce_mean(y, {2, 3}));
  graph.set_output("turned", transpose(y, {1, 0, 3, 2}));
  graph.set_loss(total(y));
  const auto outputs = [&](Precision precision) {
    Session session(graph, true, {.precision = precision});
    set_noise(session, "x", {2, 16, 8, 8});
    session.forward();
    return std::pair(session.output("means"), session.output("turned"));
  };
  const auto exact = outputs(Precision::f32), stored = outputs(Precision::bf16);
  for (std::size_t i = 0; i < exact.first.size(); ++i)
    ASSERT_NEAR(stored.first[i], exact.first[i], 5e-3) << i;
  for (std::size_t i = 0; i < exact.second.size(); ++i)
    ASSERT_NEAR(stored.second[i], exact.second[i], 2e-2) << i;
}

// An alias of another shape, an input that is read twice, and a dropout that is none.
TEST_F(StoredPlan, AliasesAndCopiesKeepTheirType) {
  Graph graph;
  const Value x = graph.input("x", {kRows, kColumns});
  const Value w = graph.parameter("w", {kColumns, kColumns}, Initializer::uniform(0.1f));
  Value y = dropout(reshape(relu(matmul(x, w)), {kRows / 2, 2, kColumns}), 0.5f);
  y = transpose(y, {1, 0, 2});  // f32
  y = add(y, slice(reshape(x, {2, kRows / 2, kColumns}), 2, 0, kColumns));
  graph.set_output("y", y);
  graph.set_loss(total(y));
  const auto output = [&](Precision precision) {
    Session session(graph, false, {.precision = precision});
    set_noise(session, "x", {kRows, kColumns});
    session.forward();
    return session.output("y");
  };
  const std::vector<float> exact = output(Precision::f32), stored = output(Precision::bf16);
  for (std::size_t i = 0; i < exact.size(); ++i) ASSERT_NEAR(stored[i], exact[i], 0.02) << i;
}

}  // namespace
}  // namespace peal::stored_test
