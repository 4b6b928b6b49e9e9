// A residual network whose activations are stored as halves, in the layout that convolutions leave:
// through batch norm, relu, what is added and pooling, and back.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "tests/graph/plan_helpers.h"
#include "tests/halves.h"

namespace peal {
namespace {

constexpr std::int64_t kRecords = 3, kSide = 12, kChannels = 16;

Value convolved(Graph& graph, const std::string& name, Value x, std::int64_t size,
                std::int64_t stride) {
  const Value w = graph.parameter(name + ".weight", {kChannels, x.shape()[1], size, size},
                                  Initializer::uniform(0.2f));
  return conv2d(x, w, {}, {.stride = {stride, stride}, .padding = {size / 2, size / 2}});
}

Value normalised(Graph& graph, const std::string& name, Value x, Value weight) {
  const Value gamma = graph.parameter(name + ".gamma", {kChannels}, Initializer::constant(1));
  const Value beta = graph.parameter(name + ".beta", {kChannels}, Initializer::uniform(0.5f));
  return batch_norm(name, x, gamma, beta, weight);
}

// As ResNet begins: a wide first convolution, pooling, a block with a shortcut of its own.
void record(Graph& graph) {
  const Value x = graph.input("x", {kRecords, 3, kSide, kSide});
  const Value weight = graph.input("weight", {kRecords});
  Value y = relu(normalised(graph, "n1", convolved(graph, "c1", x, 5, 1), weight));
  y = max_pool2d(y, {.kernel = {3, 3}, .stride = {2, 2}, .padding = {1, 1}});
  Value inner = relu(normalised(graph, "n2", convolved(graph, "c2", y, 3, 2), weight));
  inner = normalised(graph, "n3", convolved(graph, "c3", inner, 3, 1), weight);
  const Value shortcut = normalised(graph, "n4", convolved(graph, "c4", y, 1, 2), weight);
  y = relu(add(inner, shortcut));
  const Value v = graph.parameter("v", {4, kChannels}, Initializer::uniform(0.5f));
  graph.set_loss(softmax_cross_entropy(dense(global_avg_pool2d(y), v, {}),
                                       graph.input("labels", {kRecords}, DType::i32), weight));
}

std::unique_ptr<Session> run(Precision precision, bool fuse) {
  Graph graph;
  record(graph);
  auto session =
      std::make_unique<Session>(graph, true, PlanOptions{.fuse = fuse, .precision = precision});
  set_noise(*session, "x", {kRecords, 3, kSide, kSide});
  session->set_input("labels", {kRecords}, std::vector<std::int32_t>{3, 0, 2}, DType::i32);
  session->set_input("weight", {kRecords}, std::vector<float>{1, 0, 1});
  session->forward();
  session->backward();
  return session;
}

// Of f16, whose unit is 8 times smaller, gradients are nearer.
TEST(StoredLayouts, AResidualNetworkIsNearThatOfF32) {
  const auto exact = run(Precision::f32, true);
  for (const auto& [precision, near] :
       {std::pair{Precision::bf16, 0.15}, std::pair{Precision::f16, 0.02}}) {
    if (!kernels(test_device().device).has_precision(precision)) continue;
    for (const bool fuse : {true, false}) {
      const auto stored = run(precision, fuse);
      for (const char* name : {"c1.weight", "c2.weight", "c3.weight", "c4.weight", "n1.gamma",
                               "n3.beta", "n4.gamma", "v"}) {
        const double apart = distance(stored->gradient(name), exact->gradient(name));
        EXPECT_LT(apart, near) << name;
        EXPECT_GT(apart, 0) << name << ": nothing was rounded";
      }
    }
  }
}

}  // namespace
}  // namespace peal
