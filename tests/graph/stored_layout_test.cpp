// A residual network whose activations are stored as halves, in the layout that convolutions leave:
// through batch norm, relu, what is added and pooling, and back.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "core/graph/op_compiler.h"
#include "tests/graph/plan_helpers.h"
#include "tests/halves.h"

namespace peal::stored_layout_test {
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

// An op that wants its input in a given layout and gives it back in rows.
Value through(Value x, const Layout* layout) {
  const Shape shape = x.shape();
  const auto compile = [=](OpCompiler& c) {
    const Ref in = c.in_as(0, layout, DType::f32), same = c.in_as(1, layout, DType::f32);
    const Ref y = c.out();
    const std::shared_ptr<Reorder> back = c.kernels().make_reorder(shape, {layout, DType::f32}, {});
    const Ref scratch = c.scratch(back->scratch_bytes());
    c.forward({in, same, y, scratch}, [=](Run& r) {
      EXPECT_EQ(r[in].layout, layout);
      EXPECT_EQ(r[in].shape, shape);
      EXPECT_EQ(r[in].data, r[same].data) << "there are two copies";
      back->run(r.stream, r[in], r[y], r[scratch]);
    });
  };
  return x.graph().add_op("through", {x, x}, {{shape, DType::f32}}, compile)[0];
}

// Of what lies in rows, in rows under another shape, and as a convolution leaves it.
void expect_layouts_as_asked(Precision precision) {
  const Shape shape = {2, 16, 6, 6};
  const Conv2dSpec spec{.x = shape, .w = {16, 16, 3, 3}, .padding = {1, 1}, .bias = true};
  const Layout* const layout = kernels(test_device().device).make_conv2d(spec)->y_layout();
  if (test_device().device == kCpu) {
    ASSERT_NE(layout, nullptr) << "the test would test nothing";
  }
  Graph graph;
  const Value x = graph.input("x", shape);
  const Value alias = reshape(graph.input("flat", {2, 16 * 6 * 6}), shape);
  const Value made = conv2d(x, graph.input("w", spec.w), {}, {.padding = {1, 1}});
  graph.set_output("x again", through(x, layout));
  graph.set_output("alias again", through(alias, layout));
  graph.set_output("made", made);
  graph.set_output("made again", through(made, layout));
  Session session(graph, /*training=*/false, {.precision = precision});
  const std::vector<float> values = noise(shape.numel(), 3), flat = noise(shape.numel(), 4);
  session.set_input("x", shape, values);
  session.set_input("flat", {2, 16 * 6 * 6}, flat);
  set_noise(session, "w", spec.w);
  session.forward();
  EXPECT_EQ(session.output("x again"), values);
  EXPECT_EQ(session.output("alias again"), flat);
  EXPECT_EQ(session.output("made again"), session.output("made"));
}

TEST(Layouts, AreWhatAnOpAsksFor) {
  expect_layouts_as_asked(Precision::f32);
  if (stores_bf16()) expect_layouts_as_asked(Precision::bf16);
}

}  // namespace
}  // namespace peal::stored_layout_test
