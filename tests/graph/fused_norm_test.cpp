// Batch norm compiled together with what follows it gives the bits of the ops one by one.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>

#include "core/graph/ops.h"
#include "tests/graph/plan_helpers.h"

namespace peal::fused_norm_test {
namespace {

// A block under test: x and the weights of its records -> a value whose weighted sum is the loss.
using Block = std::function<Value(Graph& graph, Value x, Value weight)>;

constexpr std::int64_t kChannels = 16;

Value norm(Graph& graph, const std::string& name, Value x, Value weight) {
  const Value gamma = graph.parameter(name + ".weight", {x.shape()[1]}, Initializer::uniform(1));
  const Value beta = graph.parameter(name + ".bias", {x.shape()[1]}, Initializer::uniform(1));
  return batch_norm(name, x, gamma, beta, weight);
}

Value conv(Graph& graph, const std::string& name, Value x) {
  const Value w = graph.parameter(name + ".weight", {kChannels, x.shape()[1], 3, 3},
                                  Initializer::uniform(0.3f));
  return conv2d(x, w, {}, {.padding = {1, 1}});
}

constexpr std::int64_t kRecords = 3, kSide = 6;

void record(Graph& graph, const Block& block) {
  const Value x = graph.input("x", {kRecords, 3, kSide, kSide});
  const Value weight = graph.input("weight", {kRecords});
  const Value labels = graph.input("labels", {kRecords}, DType::i32);
  const Value y = block(graph, conv(graph, "first", x), weight);
  const Value v = graph.parameter("v", {4, y.shape()[1]}, Initializer::uniform(0.5f));
  graph.set_loss(softmax_cross_entropy(dense(global_avg_pool2d(y), v, {}), labels, weight));
}

std::unique_ptr<Session> run(const Block& block, bool fuse, bool training) {
  Graph graph;
  record(graph, block);
  auto session = std::make_unique<Session>(graph, training, PlanOptions{.fuse = fuse});
  std::vector<float> values;
  const Random random({.seed = 4});
  for (std::uint64_t i = 0; i < kRecords * 3 * kSide * kSide; ++i)
    values.push_back(2 * random.uniform(i) - 1);
  session->set_input("x", {kRecords, 3, kSide, kSide}, values);
  session->set_input("labels", {kRecords}, std::vector<std::int32_t>{3, 0, 2}, DType::i32);
  session->set_input("weight", {kRecords}, std::vector<float>{1, 0, 1});
  session->forward();
  if (training) session->backward();
  return session;
}

// The ops that became one; merged or not, the bits are the same.
std::string merged(const Block& block) {
  EXPECT_EQ(run(block, true, true)->gradient_bytes(), run(block, false, true)->gradient_bytes());
  EXPECT_EQ(run(block, true, false)->slot("loss"), run(block, false, false)->slot("loss"));
  Graph graph;
  record(graph, block);
  return merged_ops(graph, /*training=*/true);
}

TEST(FusedNorm, TakesRelu) {
  EXPECT_EQ("batch_norm+relu", merged([](Graph& graph, Value x, Value weight) {
              return relu(norm(graph, "a", x, weight));
            }));
}

TEST(FusedNorm, TakesWhatIsAdded) {
  EXPECT_EQ("batch_norm+add+relu", merged([](Graph& graph, Value x, Value weight) {
              return relu(add(norm(graph, "a", conv(graph, "c", x), weight), x));
            }));
  EXPECT_EQ("batch_norm+add+relu", merged([](Graph& graph, Value x, Value weight) {
              return relu(add(x, norm(graph, "a", conv(graph, "c", x), weight)));
            }));
}

// Both terms are batch norms: the later one takes in the sum.
TEST(FusedNorm, TakesAnotherNorm) {
  EXPECT_EQ("batch_norm+add+relu", merged([](Graph& graph, Value x, Value weight) {
              const Value y = norm(graph, "a", conv(graph, "c", x), weight);
              return relu(add(y, norm(graph, "b", x, weight)));
            }));
}

// The norm's backward then adds the last of its consumers' gradients itself.
TEST(FusedNorm, TakesTheGradientsOfSeveralConsumers) {
  const auto end_of_block = [](Graph& graph, Value x, Value weight) {
    return relu(add(norm(graph, "a", conv(graph, "c", x), weight), x));
  };
  EXPECT_EQ("batch_norm+add+relu batch_norm+add+relu",
            merged([&](Graph& graph, Value x, Value weight) {
              const Value y = end_of_block(graph, x, weight);
              return relu(add(norm(graph, "b", conv(graph, "d", y), weight), y));
            }));
  EXPECT_EQ("batch_norm+add+relu", merged([&](Graph& graph, Value x, Value weight) {
              const Value y = end_of_block(graph, x, weight);
              return add(add(conv(graph, "d", y), conv(graph, "e", y)), sigmoid(y));
            }));
}

// All in rows then, where the norm alone would keep the convolution's layout and its order of sums.
TEST(FusedNorm, TakesATermOfAnotherLayout) {
  const Block block = [](Graph& graph, Value x, Value weight) {
    const Value rows = transpose(transpose(x, {0, 1, 3, 2}), {0, 1, 3, 2});
    return relu(add(norm(graph, "a", conv(graph, "c", x), weight), rows));
  };
  const auto fused = run(block, true, true), apart = run(block, false, true);
  for (const char* name : {"first.weight", "c.weight", "a.weight", "a.bias", "v"}) {
    const std::vector<float> a = fused->gradient(name), b = apart->gradient(name);
    double largest = 0;
    for (const float g : b) largest = std::max(largest, std::abs(double{g}));
    ASSERT_GT(largest, 0) << name;
    for (std::size_t k = 0; k < a.size(); ++k)
      ASSERT_NEAR(a[k], b[k], 2e-6 * largest) << name << " " << k;
  }
}

TEST(FusedNorm, LeavesWhatIsNotThereYet) {
  EXPECT_EQ("", merged([](Graph& graph, Value x, Value weight) {
              const Value y = norm(graph, "a", x, weight);
              return relu(add(y, conv(graph, "c", x)));
            }));
}

TEST(FusedNorm, LeavesWhatIsReadElsewhere) {
  EXPECT_EQ("", merged([](Graph& graph, Value x, Value weight) {
              const Value y = norm(graph, "a", x, weight);
              return add(relu(y), sigmoid(y));
            }));
  EXPECT_EQ("", merged([](Graph& graph, Value x, Value weight) {
              const Value y = norm(graph, "a", x, weight);
              graph.set_output("y", y);
              return relu(y);
            }));
  EXPECT_EQ("", merged([](Graph& graph, Value x, Value weight) {
              const Value y = norm(graph, "a", x, weight);
              return relu(add(y, y));
            }));
}

TEST(FusedNorm, LeavesATermThatIsRepeated) {
  EXPECT_EQ(
      "", merged([](Graph& graph, Value x, Value weight) {
        const Value each = graph.parameter("each", {kChannels, 1, 1}, Initializer::uniform(1));
        return relu(add(norm(graph, "a", x, weight), each));
      }));
}

}  // namespace
}  // namespace peal::fused_norm_test
