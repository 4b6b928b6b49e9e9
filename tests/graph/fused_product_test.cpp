// A product compiled together with the add of a residual, or with the activation and the product
// behind it, gives what the ops one by one give, but for the rounding between them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>

#include "tests/graph/plan_helpers.h"

namespace peal::fused_product_test {
namespace {

// A block under test: x (B, T, C) -> a value of its shape.
using Body = std::function<Value(Graph& graph, Value x)>;

const Shape kInput = {3, 10, 24};

Value product(const std::string& name, Value x) {
  Graph& graph = x.graph();
  const Value w = graph.parameter(name + ".w", {x.shape()[-1], 24}, Initializer::uniform(0.3f));
  return affine(x, w, graph.parameter(name + ".b", {24}, Initializer::uniform(1)));
}

// The residual depends on a parameter, so that a gradient flows into it.
void record(Graph& graph, const Body& body) {
  const Value x = product("first", graph.input("x", kInput));
  const Value y = body(graph, x);
  graph.set_output("y", y);
  graph.set_loss(total(mul(y, graph.input("projection", kInput))));
}

std::unique_ptr<Session> run(const Body& body, bool training, const PlanOptions& options) {
  Graph graph;
  record(graph, body);
  auto session = std::make_unique<Session>(graph, training, options);
  set_noise(*session, "x", kInput);
  session->set_input("projection", kInput, noise(kInput.numel(), 4));
  session->forward(kPass);
  if (training) session->backward();
  return session;
}

void expect_near(const std::vector<float>& got, const std::vector<float>& expected, double bound,
                 const std::string& what) {
  double largest = 0;
  for (const float v : expected) largest = std::max(largest, std::abs(double{v}));
  ASSERT_GT(largest, 0) << what;
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], bound * largest) << what << " " << i;
}

void expect_same(const Body& body, PlanOptions options, double bound) {
  PlanOptions apart = options;
  apart.fuse = false;
  for (const bool training : {true, false}) {
    const auto one = run(body, training, options), two = run(body, training, apart);
    expect_near(one->output("y"), two->output("y"), bound, cat("y, training ", training));
    if (!training) continue;
    for (const ArenaEntry& entry : one->table().parameters)
      expect_near(one->gradient(entry.name), two->gradient(entry.name), bound, entry.name);
  }
}

// The ops that became one.
std::string merged(const Body& body, bool training = true) {
  for (const bool recompute : {false, true}) expect_same(body, {.recompute = recompute}, 2e-6);
  // A value is rounded once less, of 8 bits.
  if (stores_bf16()) expect_same(body, {.precision = Precision::bf16}, 0.02);
  Graph graph;
  record(graph, body);
  return merged_ops(graph, training);
}

TEST(FusedProduct, TakesAResidual) {
  EXPECT_EQ("affine+add", merged([](Graph&, Value x) { return add(x, product("a", tanh(x))); }));
  EXPECT_EQ("affine+add", merged([](Graph&, Value x) { return add(product("a", tanh(x)), x); }));
}

TEST(FusedProduct, TakesItsOwnInput) {
  EXPECT_EQ("affine+add", merged([](Graph&, Value x) { return add(product("a", x), x); }));
}

TEST(FusedProduct, TakesAResidualThatIsReadAgain) {
  EXPECT_EQ("affine+add affine+add", merged([](Graph&, Value x) {
              const Value y = add(x, product("a", tanh(x)));
              return add(add(y, product("b", sigmoid(y))), tanh(x));
            }));
}

TEST(FusedProduct, TakesAnAlias) {
  EXPECT_EQ("affine+add", merged([](Graph&, Value x) {
              const Value flat = tanh(reshape(x, {30, 24}));
              return add(product("a", x), reshape(flat, kInput));
            }));
}

TEST(FusedProduct, TakesAResidualInItsBlock) {
  EXPECT_EQ("affine+add affine+add", merged([](Graph& graph, Value x) {
              for (const char* name : {"a", "b"}) {
                const Graph::Block block(graph);
                x = add(x, product(name, tanh(x)));
              }
              return x;
            }));
  EXPECT_EQ("", merged([](Graph& graph, Value x) {
              Value y;
              {
                const Graph::Block block(graph);
                y = product("a", tanh(x));
              }
              const Graph::Block block(graph);
              return add(x, y);
            }));
}

// Dropout passes through in evaluation alone.
TEST(FusedProduct, TakesAResidualBehindADropoutInEvaluation) {
  const Body body = [](Graph&, Value x) { return add(x, dropout(product("a", tanh(x)), 0.3f)); };
  EXPECT_EQ("", merged(body, /*training=*/true));
  EXPECT_EQ("affine+dropout+add", merged(body, /*training=*/false));
}

TEST(FusedProduct, LeavesWhatIsNotThereYet) {
  EXPECT_EQ("", merged([](Graph&, Value x) {
              const Value y = product("a", tanh(x));
              return add(y, sigmoid(x));
            }));
}

TEST(FusedProduct, LeavesWhatIsReadElsewhere) {
  EXPECT_EQ("", merged([](Graph&, Value x) {
              const Value y = product("a", tanh(x));
              return mul(add(x, y), tanh(y));
            }));
  EXPECT_EQ("", merged([](Graph& graph, Value x) {
              const Value y = product("a", tanh(x));
              graph.set_output("before", y);
              return add(x, y);
            }));
  EXPECT_EQ("", merged([](Graph&, Value x) {
              const Value y = product("a", tanh(x));
              return add(y, y);
            }));
}

TEST(FusedProduct, LeavesATermThatIsRepeated) {
  EXPECT_EQ("", merged([](Graph& graph, Value x) {
              const Value each = graph.parameter("each", {24}, Initializer::uniform(1));
              return add(product("a", tanh(x)), each);
            }));
}

Value perceptron(Value x) {
  return product("down", gelu_tanh(product("up", x)));
}

TEST(FusedPerceptron, IsOneOp) {
  EXPECT_EQ("affine+gelu_tanh+affine", merged([](Graph&, Value x) { return perceptron(x); }));
  EXPECT_EQ("affine+gelu_tanh+affine+add",
            merged([](Graph&, Value x) { return add(x, perceptron(tanh(x))); }));
  EXPECT_EQ("affine+gelu_tanh+affine+add",
            merged([](Graph&, Value x) { return add(perceptron(x), x); }));
}

TEST(FusedPerceptron, HasADropoutBehindIt) {
  const Body body = [](Graph&, Value x) { return add(x, dropout(perceptron(tanh(x)), 0.3f)); };
  EXPECT_EQ("affine+gelu_tanh+affine", merged(body, /*training=*/true));
  EXPECT_EQ("affine+gelu_tanh+affine+dropout+add", merged(body, /*training=*/false));
}

TEST(FusedPerceptron, IsInOneBlock) {
  EXPECT_EQ("affine+gelu_tanh+affine affine+gelu_tanh+affine", merged([](Graph& graph, Value x) {
              const Graph::Block block(graph);
              const Value y = product("first_down", gelu_tanh(product("first_up", tanh(x))));
              return perceptron(y);
            }));
  EXPECT_EQ("", merged([](Graph& graph, Value x) {
              Value y;
              {
                const Graph::Block block(graph);
                y = gelu_tanh(product("up", tanh(x)));
              }
              const Graph::Block block(graph);
              return product("down", y);
            }));
}

// In f32 nothing is rounded less.
TEST(FusedPerceptron, HasTheBitsOfItsParts) {
  for (const bool recompute : {false, true}) {
    const Body body = [](Graph& graph, Value x) {
      const Graph::Block block(graph);
      return dropout(perceptron(tanh(x)), 0.3f);
    };
    const auto one = run(body, true, {.recompute = recompute}),
               two = run(body, true, {.fuse = false, .recompute = recompute});
    EXPECT_EQ(one->output("y"), two->output("y"));
    // Its second product is not made again.
    const std::vector<std::string> calls = one->plan().backward_calls();
    EXPECT_EQ(std::count(calls.begin(), calls.end(), "affine+gelu_tanh+affine again"),
              recompute ? 1 : 0);
    ASSERT_EQ(one->table().parameters.size(), 6u);
    for (const ArenaEntry& entry : one->table().parameters)
      EXPECT_EQ(one->gradient(entry.name), two->gradient(entry.name)) << entry.name;
  }
}

// Its parts have gradients of their own, whichever are wanted: here x is data.
TEST(FusedPerceptron, BeginsAtTheData) {
  const auto gradients = [](bool fuse) {
    Graph graph;
    const Value y = perceptron(graph.input("x", kInput));
    graph.set_loss(total(mul(y, graph.input("projection", kInput))));
    Session session(graph, /*training=*/true, {.fuse = fuse});
    set_noise(session, "x", kInput);
    session.set_input("projection", kInput, noise(kInput.numel(), 4));
    session.forward(kPass);
    session.backward();
    std::vector<std::vector<float>> all;
    for (const ArenaEntry& entry : session.table().parameters)
      all.push_back(session.gradient(entry.name));
    return all;
  };
  EXPECT_EQ(gradients(true), gradients(false));
  EXPECT_EQ(gradients(true).size(), 4u);
}

TEST(FusedPerceptron, LeavesWhatIsReadElsewhere) {
  EXPECT_EQ("", merged([](Graph& graph, Value x) {
              const Value h = gelu_tanh(product("up", x));
              graph.set_output("hidden", h);
              return product("down", h);
            }));
  EXPECT_EQ("", merged([](Graph&, Value x) {
              const Value before = product("up", x);
              return mul(product("down", gelu_tanh(before)), tanh(before));
            }));
}

TEST(FusedPerceptron, LeavesOtherActivationsAndWeights) {
  EXPECT_EQ("", merged([](Graph&, Value x) { return product("down", gelu(product("up", x))); }));
  EXPECT_EQ("", merged([](Graph& graph, Value x) {
              const Value h = gelu_tanh(product("up", x));
              const Value w = graph.parameter("w", {24, 24}, Initializer::uniform(0.3f));
              return affine(h, tanh(w), graph.parameter("b", {24}, Initializer::uniform(1)));
            }));
}

}  // namespace
}  // namespace peal::fused_product_test
