// A loss whose forward call writes its gradient over the logits (OpCompiler::grad_in_by_forward):
// where it may, and the bits of a plan in which backward writes it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <optional>

#include "core/graph/op_compiler.h"
#include "tests/graph/plan_helpers.h"

namespace peal::loss_gradient_test {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kRecords = 4, kTime = 3, kWidth = 10, kClasses = 21,
                       kRows = kRecords * kTime;
const std::string kBackward = "softmax_cross_entropy backward";

// What a graph of one loss is made of.
struct Net {
  explicit Net(Graph& to) : graph(to) {}

  Value parameter(const std::string& name, const Shape& shape) const {
    return graph.parameter(name, shape, Initializer::uniform(0.6f));
  }
  Value layer(const std::string& name = "w") const {
    return dense(x, parameter(name, {kClasses, kWidth}), {});
  }
  Value loss(Value logits) const {
    return softmax_cross_entropy(reshape(logits, {kRecords, kTime, kClasses}), labels, weight);
  }
  // Only reads, and has no gradient.
  Value count(Value logits) {
    counts = true;
    return count_correct(logits, graph.input("flat_labels", {kRows}, DType::i32),
                         graph.input("flat_weight", {kRows}));
  }

  Graph& graph;
  bool counts = false;
  Value x = graph.input("x", {kRows, kWidth});
  Value labels = graph.input("labels", {kRecords, kTime}, DType::i32);
  Value weight = graph.input("weight", {kRecords});
};

using Record = std::function<void(Net&)>;

void set_inputs(Session& session, bool counts) {
  set_noise(session, "x", {kRows, kWidth});
  std::vector<std::int32_t> labels;
  for (std::int32_t i = 0; i < kRows; ++i) labels.push_back(i * 5 % kClasses);
  session.set_input("labels", {kRecords, kTime}, labels, DType::i32);
  session.set_input("weight", {kRecords}, std::vector<float>{1, 0, 2, 1});
  if (!counts) return;
  session.set_input("flat_labels", {kRows}, labels, DType::i32);
  session.set_input("flat_weight", {kRows}, std::vector<float>(kRows, 1));
}

struct Result {
  std::vector<std::byte> gradients;
  std::vector<std::string> calls;  // of backward
  std::size_t bytes;
};

Result run(const Record& record, const PlanOptions& options) {
  Graph graph;
  Net net(graph);
  record(net);
  Session session(graph, /*training=*/true, options);
  set_inputs(session, net.counts);
  session.forward(kPass, 0.25f);
  session.backward();
  return {session.gradient_bytes(), session.plan().backward_calls(),
          session.plan().memory().activations};
}

// Whether the gradient of the graph's loss is written in forward; the same bits as in backward.
void expect_form(bool in_forward, const Record& record, PlanOptions options = {}) {
  std::vector<Precision> precisions = {Precision::f32};
  if (stores_bf16()) precisions.push_back(Precision::bf16);
  for (const Precision precision : precisions) {
    options.precision = precision;
    options.share = true;
    const Result together = run(record, options);
    options.share = false;
    const Result apart = run(record, options);
    const auto calls = [](const Result& of, const std::string& name) {
      return std::ranges::count(of.calls, name);
    };
    EXPECT_EQ(calls(apart, kBackward) - calls(together, kBackward), in_forward ? 1 : 0);
    EXPECT_EQ(calls(together, "copy"), 0);
    EXPECT_EQ(together.gradients, apart.gradients);
    EXPECT_LE(together.bytes, apart.bytes);
  }
}

TEST(LossGradient, IsWrittenInForward) {
  const Record record = [](Net& net) { net.graph.set_loss(net.loss(net.layer())); };
  expect_form(true, record);
  expect_form(true, record, {.recompute = true});
  if (test_device().device.kind == Device::Kind::cpu) {  // others pad halves alone
    expect_form(true, record, {.pad_rows_to = 8});
  }
}

// What has read them before does not mind.
TEST(LossGradient, AfterOtherReaders) {
  expect_form(true, [](Net& net) {
    const Value logits = net.layer();
    net.graph.set_metric("correct", net.count(logits));
    net.graph.set_loss(net.loss(logits));
  });
  expect_form(true, [](Net& net) {
    const Value logits = net.layer();
    const Value other = net.loss(scale(logits, 0.5f));
    net.graph.set_metric("other", other);
    net.graph.set_loss(net.loss(logits));
  });
}

TEST(LossGradient, OfWhatAnOutputTellsWaitsForBackward) {
  const Record record = [](Net& net) {
    const Value logits = net.layer();
    net.graph.set_output("logits", reshape(logits, {kRecords, kTime * kClasses}));
    net.graph.set_loss(net.loss(logits));
  };
  expect_form(false, record);
  expect_form(true, record, {.outputs = false});
}

TEST(LossGradient, OfWhatIsReadLaterWaitsForBackward) {
  expect_form(false, [](Net& net) {  // in forward
    const Value logits = net.layer();
    net.graph.set_loss(net.loss(logits));
    net.graph.set_metric("correct", net.count(logits));
  });
  expect_form(false, [](Net& net) {  // in backward, by the op that made them
    net.graph.set_loss(net.loss(tanh(net.layer())));
  });
  expect_form(false, [](Net& net) {  // by a slot
    const Value logits = net.layer();
    net.graph.set_loss(net.loss(logits));
    net.graph.add_slot("logits", logits);
  });
}

TEST(LossGradient, OfWhatIsNotThePlansWaitsForBackward) {
  Graph graph;
  const Net net(graph);
  graph.set_loss(net.loss(net.parameter("logits", {kRows, kClasses})));
  Session session(graph, true);
  set_inputs(session, false);
  session.forward();
  session.backward();
  EXPECT_THAT(session.plan().backward_calls(), testing::Contains(kBackward));
  session.forward();
  const float first = session.slot("loss")[0];
  session.forward();
  EXPECT_EQ(session.slot("loss")[0], first) << "the parameter has changed";
}

TEST(LossGradient, OfALossThatIsReadWaitsForBackward) {
  expect_form(false, [](Net& net) { net.graph.set_loss(scale(net.loss(net.layer()), 3)); });
  expect_form(false, [](Net& net) {
    net.graph.set_loss(add(net.loss(net.layer()), net.loss(net.layer("w2"))));
  });
  expect_form(false, [](Net& net) {
    const Value loss = net.loss(net.layer());
    net.graph.set_metric("twice", scale(loss, 2));
    net.graph.set_loss(loss);
  });
  expect_form(true, [](Net& net) {  // by slots alone
    const Value loss = net.loss(net.layer());
    net.graph.set_metric("again", loss);
    net.graph.set_output("loss", loss);
    net.graph.set_loss(loss);
  });
}

// Weights that are the logits themselves: they are read for each record, also after its row.
TEST(LossGradient, OfALossThatReadsThemTwiceWaitsForBackward) {
  Graph graph;
  const Value x = graph.input("x", {kRows, kWidth});
  const Value w = graph.parameter("w", {1, kWidth}, Initializer::uniform(0.6f));
  const Value logits = dense(x, w, {});
  graph.set_loss(softmax_cross_entropy(logits, graph.input("labels", {kRows}, DType::i32),
                                       reshape(logits, {kRows})));
  const ParameterTable table = make_parameter_table(graph);
  const Plan plan(graph, table, test_device().device, /*training=*/true);
  EXPECT_THAT(plan.backward_calls(), testing::Contains(kBackward));
}

// A forward call that runs again must find what it found.
TEST(LossGradient, OfBlocksThatAreMadeAgainWaitsForBackward) {
  const Record loss_inside = [](Net& net) {
    const Value logits = net.layer();
    const Graph::Block block(net.graph);
    net.graph.set_loss(net.loss(logits));
  };
  const Record all_inside = [](Net& net) {
    const Graph::Block block(net.graph);
    net.graph.set_loss(net.loss(net.layer()));
  };
  const Record made_inside = [](Net& net) {
    std::optional<Graph::Block> block(net.graph);
    const Value logits = net.layer();
    block.reset();
    net.graph.set_loss(net.loss(logits));
  };
  const Record read_inside = [](Net& net) {
    const Value logits = net.layer();
    std::optional<Graph::Block> block(net.graph);
    const Value other = tanh(scale(logits, 0.5f));
    net.graph.set_metric("other", net.loss(mul(other, other)));
    block.reset();
    net.graph.set_loss(net.loss(logits));
  };
  for (const Record& record : {loss_inside, all_inside, made_inside, read_inside}) {
    expect_form(false, record, {.recompute = true});
    expect_form(true, record);
  }
}

TEST(LossGradient, HasTheScaleOfItsPass) {
  Graph graph;
  const Net net(graph);
  graph.set_loss(net.loss(net.layer()));
  const auto gradients = [&](bool share, bool record, bool factor) {
    Session session(graph, true, {.share = share, .record = record});
    set_inputs(session, false);
    Buffer memory(sizeof(float), test_device().device);
    if (factor)
      session.plan().bind_loss_factor({memory.data(), {1}, DType::f32, test_device().device});
    std::vector<std::vector<std::byte>> all;
    for (const float scale : {1.0f, 0.3f, 0.3f, 7.0f, 0.1f}) {
      const float by = 4 * scale;
      if (factor) to_device(session.stream(), memory.data(), &by, sizeof(by));
      session.forward(kPass, scale);
      session.backward();
      all.push_back(session.gradient_bytes());
    }
    return all;
  };
  for (const bool factor : {false, true}) {
    const auto want = gradients(false, false, factor);
    EXPECT_NE(want[0], want[1]);
    EXPECT_EQ(want[1], want[2]);
    EXPECT_NE(want[2], want[3]);
    EXPECT_EQ(gradients(true, false, factor), want) << factor;
    EXPECT_EQ(gradients(true, true, factor), want) << factor << ", recorded";
  }
}

// Passes that nobody takes back.
TEST(LossGradient, OfTheLastForwardCounts) {
  Graph graph;
  const Net net(graph);
  graph.set_loss(net.loss(net.layer()));
  Session once(graph, true), twice(graph, true);
  for (Session* each : {&once, &twice}) set_inputs(*each, false);
  twice.forward(kPass, 0.5f);
  for (Session* each : {&once, &twice}) {
    each->forward(kPass, 0.25f);
    each->backward();
  }
  EXPECT_EQ(twice.gradient_bytes(), once.gradient_bytes());
}

TEST(LossGradient, IsNotTakenForTheLogits) {
  Graph graph;
  const Net net(graph);
  const Value logits = net.layer();
  graph.set_loss(net.loss(logits));
  const Value y = graph.add_op("hidden reader", {net.x}, {{{1}, DType::f32}}, [=](OpCompiler& c) {
    c.ref(logits);
    c.out();
  })[0];
  graph.set_metric("read", y);
  EXPECT_THAT(message_of([&] { Session session(graph, true); }),
              HasSubstr("a value is read where its gradient lies"));
}

}  // namespace
}  // namespace peal::loss_gradient_test
