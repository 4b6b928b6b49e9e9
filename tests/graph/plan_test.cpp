// What the plan adds to the ops: gradients of values with several consumers, memory, layouts,
// fusion, slots, and the order in which gradients become final.
#include "core/graph/plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/graph/op_compiler.h"
#include "core/graph/ops.h"
#include "tests/graph/plan_helpers.h"

namespace peal::plan_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Pointwise;

// ---- Autograd ------------------------------------------------------------------------------

TEST(Autograd, AddsUpTheConsumersOfAValue) {
  Graph graph;
  const Value w = graph.parameter("w", {3}, Initializer::constant(0));
  const Value y = scale(w, 2);  // read three times, once through an alias
  const Value sum = add(total(mul(y, y)), total(scale(reshape(y, {3, 1}), 10)));
  graph.set_loss(add(sum, total(w)));
  Session session(graph, true);
  session.set_parameter("w", {1, -2, 3});
  session.forward();
  session.backward();
  EXPECT_FLOAT_EQ(session.slot("loss")[0], 4 * 14 + 20 * 2 + 2);
  EXPECT_THAT(session.gradient("w"), ElementsAre(8 + 20 + 1, -16 + 20 + 1, 24 + 20 + 1));
}

TEST(Autograd, AddsUpTheUsesOfAParameter) {
  Graph graph;
  const Value x = graph.input("x", {2, 3});
  const Value w = graph.parameter("w", {3, 3}, Initializer::uniform(1));
  graph.set_loss(total(dense(dense(x, w, {}), w, {})));
  Session session(graph, true);
  set_noise(session, "x", {2, 3});
  session.forward();
  session.backward();
  // The same with two parameters of the same values.
  Graph twin;
  const Value x2 = twin.input("x", {2, 3});
  const Value first = twin.parameter("w", {3, 3}, Initializer::uniform(1));
  const Value second = twin.parameter("w2", {3, 3}, Initializer::uniform(1));
  twin.set_loss(total(dense(dense(x2, first, {}), second, {})));
  Session apart(twin, true);
  set_noise(apart, "x", {2, 3});
  const std::vector<float> w_values = noise(9, 4);
  session.set_parameter("w", w_values);
  apart.set_parameter("w", w_values);
  apart.set_parameter("w2", w_values);
  for (Session* each : {&session, &apart}) {
    each->forward();
    each->backward();
  }
  const auto together = session.gradient("w"), one = apart.gradient("w"),
             two = apart.gradient("w2");
  for (std::size_t i = 0; i < 9; ++i) EXPECT_EQ(together[i], two[i] + one[i]);
}

TEST(Autograd, ComputesNoGradientThatNobodyWants) {
  Graph graph;
  const Value x = graph.input("x", {2, 4});
  const Value w = graph.parameter("w", {3, 4}, Initializer::uniform(1));
  bool first_wanted = true, second_wanted = false;
  const auto probe = graph.add_op("probe", {x, w}, {{{1}, DType::f32}}, [&](OpCompiler& c) {
    first_wanted = c.needs_grad(0);
    second_wanted = c.needs_grad(1);
    const Ref y = c.out(), dw = c.grad_in(1);
    EXPECT_FALSE(c.grad_in(0));
    Kernels& k = c.kernels();
    c.forward({y}, [=, &k](peal::Run& r) { k.fill(r.stream, r[y], 1); });
    c.backward({dw}, [=, &k](peal::Run& r) { k.fill(r.stream, r[dw], 2); });
  });
  graph.set_loss(probe[0]);
  Session session(graph, true);
  EXPECT_FALSE(first_wanted);
  EXPECT_TRUE(second_wanted);
}

// A weight that is given gets no gradient; what its bias and its input get is the same.
TEST(Autograd, GivesTheBiasBehindAGivenWeightItsGradient) {
  constexpr std::int64_t kRows = 9, kFeatures = 5, kOut = 7;
  const auto gradients = [&](bool transposed, bool given) {
    const Shape of_weight = transposed ? Shape{kOut, kFeatures} : Shape{kFeatures, kOut};
    Graph graph;
    const Value x = graph.parameter("x", {kRows, kFeatures}, Initializer::uniform(1));
    const Value w = given ? graph.input("w", of_weight)
                          : graph.parameter("w", of_weight, Initializer::constant(0));
    const Value bias = graph.parameter("b", {kOut}, Initializer::uniform(1));
    const Value y = transposed ? dense(x, w, bias) : affine(x, w, bias);
    graph.set_loss(total(mul(y, sigmoid(y))));
    Session session(graph, /*training=*/true);
    const std::vector<float> weight = noise(of_weight.numel());
    if (given) {
      session.set_input("w", of_weight, weight);
    } else {
      session.set_parameter("w", weight);
    }
    session.forward();
    session.backward();
    return std::pair(session.gradient("b"), session.gradient("x"));
  };
  for (const bool transposed : {false, true})
    EXPECT_EQ(gradients(transposed, true), gradients(transposed, false)) << transposed;
}

TEST(Autograd, TreatsTargetsAsConstants) {
  Graph graph;
  const Value x = graph.parameter("x", {2, 1}, Initializer::constant(1));
  const Value t = graph.parameter("t", {2, 1}, Initializer::constant(3));
  const Value weight = graph.input("weight", {2});
  graph.set_loss(squared_error(x, t, weight));
  Session session(graph, true);
  session.set_input("weight", {2}, std::vector<float>{1, 1});
  session.forward();
  session.backward();
  EXPECT_THAT(session.gradient("x"), ElementsAre(-4, -4));
  EXPECT_THAT(session.gradient("t"), ElementsAre(0, 0));
}

TEST(Autograd, ZeroesTheGradientOfAnUnusedParameter) {
  Graph graph;
  graph.parameter("unused", {5}, Initializer::constant(1));
  const Value counted = graph.parameter("counted", {1}, Initializer::constant(1));
  const Value w = graph.parameter("w", {2}, Initializer::constant(1));
  graph.set_metric("metric", scale(counted, 2));
  graph.set_loss(total(w));
  Session session(graph, true);
  EXPECT_EQ(session.table().parameters[0].name, "w");
  EXPECT_EQ(session.table().parameters[1].name, "unused");
  EXPECT_EQ(session.table().parameters[2].name, "counted");
  session.forward({}, 0.5f);
  std::vector<std::size_t> calls;
  session.backward([&](std::size_t bytes) { calls.push_back(bytes); });
  EXPECT_THAT(session.gradient("unused"), ElementsAre(0, 0, 0, 0, 0));
  EXPECT_THAT(session.gradient("counted"), ElementsAre(0));
  EXPECT_THAT(session.gradient("w"), ElementsAre(0.5f, 0.5f));
  EXPECT_THAT(calls, ElementsAre(session.table().gradient_bytes));
}

// ---- A small network that uses most of the machinery ----------------------------------------

struct NetOptions {
  bool keep_everything = false;  // every value an output: no memory is used twice
  std::int64_t batch = 3;
};

// conv -> relu -> pool -> [sigmoid, branch] -> conv -> batch_norm -> dense -> loss
void record_net(Graph& graph, const NetOptions& options = {}) {
  const std::int64_t batch = options.batch;
  int outputs = 0;
  const auto keep = [&](Value v) {
    if (options.keep_everything) graph.set_output(cat("v", outputs++), v);
    return v;
  };
  const auto weights = [&](const std::string& name, const Shape& shape) {
    return graph.parameter(name, shape, Initializer::uniform(0.3f));
  };
  const Value x = graph.input("x", {batch, 3, 10, 10});
  const Value labels = graph.input("labels", {batch}, DType::i32);
  const Value weight = graph.input("weight", {batch});
  Value y = keep(conv2d(x, weights("conv1.weight", {16, 3, 3, 3}), weights("conv1.bias", {16})));
  y = keep(max_pool2d(keep(relu(y))));                                 // (B, 16, 4, 4)
  const Value gate = keep(transpose(keep(sigmoid(y)), {0, 1, 3, 2}));  // leaves the conv's layout
  y = keep(conv2d(y, weights("conv2.weight", {16, 16, 3, 3}), {}, {.padding = {1, 1}}));
  y = keep(mul(y, gate));
  y = keep(batch_norm("norm", y, weights("norm.weight", {16}), weights("norm.bias", {16}), weight));
  y = keep(conv2d(keep(gelu(y)), weights("conv3.weight", {16, 16, 3, 3}), {}));
  y = keep(dropout(keep(relu(dense(flatten(y), weights("dense1.weight", {20, 64}),
                                   weights("dense1.bias", {20})))),
                   0.5f));
  const Value logits = keep(dense(y, weights("dense2.weight", {4, 20}), {}));
  graph.set_loss(keep(softmax_cross_entropy(logits, labels, weight)));
  graph.set_metric("correct", count_correct(logits, labels, weight));
  graph.set_output("logits", logits);
}

std::unique_ptr<Session> net_session(bool training, const PlanOptions& options = {},
                                     const NetOptions& net = {}) {
  Graph graph;
  record_net(graph, net);
  auto session = std::make_unique<Session>(graph, training, options);
  set_noise(*session, "x", {3, 3, 10, 10});
  session->set_input("labels", {3}, std::vector<std::int32_t>{3, 0, 2}, DType::i32);
  session->set_input("weight", {3}, std::vector<float>{1, 1, 0});
  return session;
}

std::unique_ptr<Session> run_net(const PlanOptions& options = {}, const NetOptions& net = {}) {
  auto session = net_session(true, options, net);
  session->forward(kPass);
  session->backward();
  return session;
}

TEST(Memory, IsSharedWithoutChangingABit) {
  const auto lean = run_net({.fuse = false});
  const auto wasteful = run_net({.fuse = false}, {.keep_everything = true});
  EXPECT_EQ(lean->gradient_bytes(), wasteful->gradient_bytes());
  EXPECT_LT(lean->plan().memory().activations, wasteful->plan().memory().activations);
}

// The largest tensor of a language model: its gradient takes its place, unless somebody reads it.
TEST(Memory, LogitsMakeRoomForTheirGradient) {
  struct Result {
    std::size_t activations;
    std::vector<std::byte> gradients;
  };
  constexpr std::int64_t kRows = 8, kClasses = 1000;
  const auto run = [](bool outputs, bool read_twice) {
    Graph graph;
    const Value x = graph.input("x", {kRows, 3});
    const Value labels = graph.input("labels", {kRows}, DType::i32);
    const Value weight = graph.input("weight", {kRows});
    const Value w = graph.parameter("w", {kClasses, 3}, Initializer::uniform(1));
    const Value logits = dense(x, w, Value());
    // Recorded before the loss, so that backward reads the logits after the loss has.
    Value squares;
    if (read_twice) squares = reduce_sum(reshape(mul(logits, logits), {1, 0}), {1});
    const Value loss = softmax_cross_entropy(logits, labels, weight);
    graph.set_loss(read_twice ? add(loss, squares) : loss);
    graph.set_output("logits", logits);
    Session session(graph, /*training=*/true, {.outputs = outputs});
    set_noise(session, "x", {kRows, 3});
    session.set_input("labels", {kRows}, std::vector<std::int32_t>{3, 0, 2, 1, 0, 9, 8, 7},
                      DType::i32);
    session.set_input("weight", {kRows}, std::vector<float>(kRows, 1.0f));
    session.forward();
    session.backward();
    return Result{session.plan().memory().activations, session.gradient_bytes()};
  };
  constexpr std::size_t kLogits = kRows * kClasses * sizeof(float);
  for (const bool read_twice : {false, true}) {
    const Result kept = run(true, read_twice), lean = run(false, read_twice);
    EXPECT_EQ(lean.gradients, kept.gradients) << read_twice;
    if (!read_twice) {
      EXPECT_LE(lean.activations + kLogits, kept.activations + 64);
    }
  }
  EXPECT_LT(run(false, false).activations, 3 * kLogits / 2);
}

TEST(Memory, OfAnEvaluationDoesNotGrowWithDepth) {
  const auto bytes = [](int depth, bool training) {
    Graph graph;
    Value y = graph.parameter("w", {1000}, Initializer::constant(1));
    for (int i = 0; i < depth; ++i) y = sigmoid(y);
    graph.set_loss(total(y));
    const ParameterTable table = make_parameter_table(graph);
    return Plan(graph, table, kCpu, training).memory().activations;
  };
  EXPECT_EQ(bytes(20, false), bytes(3, false));
  EXPECT_LT(bytes(20, false), 3 * 4096u);
  EXPECT_GT(bytes(20, true), 20 * 4000u);
}

TEST(Memory, StopsACallThatTouchesWhatItDidNotList) {
  Graph graph;
  const Value x = graph.input("x", {4});
  const auto made = graph.add_op("careless", {x}, {{{4}, DType::f32}}, [](OpCompiler& c) {
    const Ref in = c.in(0), y = c.out();
    c.forward({y}, [=](peal::Run& r) { static_cast<void>(r[in]); });
  });
  graph.set_output("y", made[0]);
  Session session(graph, false);
  set_noise(session, "x", {4});
  EXPECT_THAT(message_of([&] { session.forward(); }), HasSubstr("careless"));
}

TEST(Layouts, AreUsedAndLeftWhereAnOpWantsRows) {
  const auto conv =
      kernels(kCpu).make_conv2d({.x = {3, 3, 10, 10}, .w = {16, 3, 3, 3}, .bias = true});
  EXPECT_NE(conv->y_layout(), nullptr) << "the tests of layouts would test nothing";

  const auto free = run_net({.fuse = false});
  const auto fused = run_net({.fuse = true});
  for (const ArenaEntry& parameter : free->table().parameters) {
    const auto a = free->gradient(parameter.name), b = fused->gradient(parameter.name);
    for (std::size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], 2e-6) << parameter.name << " " << i;
  }
}

// A chain that keeps the convolutions' layout against the same chain forced into rows at each step.
TEST(Layouts, KeepValuesAndGradients) {
  const auto loss_and_gradient = [](bool rows) {
    Graph graph;
    const Value x = graph.input("x", {2, 16, 6, 6});
    const Value w = graph.parameter("w", {16, 16, 3, 3}, Initializer::uniform(0.2f));
    const auto through = [&](Value v) {
      return rows ? transpose(transpose(v, {1, 0, 2, 3}), {1, 0, 2, 3}) : v;
    };
    Value y = through(conv2d(x, w, {}));
    y = through(sigmoid(y));
    const Value z = through(conv2d(y, w, {}, {.padding = {1, 1}}));
    graph.set_loss(total(mul(add(z, y), transpose(y, {0, 1, 3, 2}))));
    Session session(graph, true);
    set_noise(session, "x", {2, 16, 6, 6});
    session.forward();
    session.backward();
    return std::pair(session.slot("loss")[0], session.gradient("w"));
  };
  const auto [loss, gradient] = loss_and_gradient(false);
  const auto [row_loss, row_gradient] = loss_and_gradient(true);
  EXPECT_NEAR(loss, row_loss, 1e-5 * std::abs(row_loss));
  double largest = 0;
  for (const float g : row_gradient) largest = std::max(largest, std::abs(double{g}));
  for (std::size_t i = 0; i < gradient.size(); ++i)
    ASSERT_NEAR(gradient[i], row_gradient[i], 2e-6 * largest) << i;
}

// ---- Fusion --------------------------------------------------------------------------------

// conv -> relu -> pool in the shapes of the reference CNN, for which the CPU has a fused kernel.
std::unique_ptr<Session> run_small_cnn(bool fuse, bool training = true, bool read_relu = false) {
  Graph graph;
  const Value x = graph.input("x", {4, 1, 28, 28});
  const Value w = graph.parameter("w", {32, 1, 3, 3}, Initializer::uniform(0.3f));
  const Value b = graph.parameter("b", {32}, Initializer::uniform(0.3f));
  const Value v = graph.parameter("v", {5, 5408}, Initializer::uniform(0.1f));
  const Value c = graph.parameter("c", {5}, Initializer::uniform(0.1f));
  const Value hidden = relu(conv2d(x, w, b));
  if (read_relu) graph.set_output("hidden", hidden);
  graph.set_loss(total(tanh(relu(dense(flatten(max_pool2d(hidden)), v, c)))));
  auto session = std::make_unique<Session>(graph, training, PlanOptions{.fuse = fuse});
  set_noise(*session, "x", {4, 1, 28, 28});
  session->forward(kPass);
  if (training) session->backward();
  return session;
}

void expect_same_results(Session& fused, Session& apart) {
  EXPECT_NEAR(fused.slot("loss")[0], apart.slot("loss")[0], 1e-6);
  for (const char* name : {"w", "b", "v", "c"}) {
    const auto a = fused.gradient(name), b = apart.gradient(name);
    double largest = 0;
    for (const float g : b) largest = std::max(largest, std::abs(double{g}));
    ASSERT_GT(largest, 0) << name;
    for (std::size_t i = 0; i < a.size(); ++i)
      ASSERT_NEAR(a[i], b[i], 5e-6 * largest) << name << " " << i;
  }
}

TEST(Fusion, ChangesNoResult) {
  const auto fused = run_small_cnn(true), apart = run_small_cnn(false);
  EXPECT_EQ(fused->table().hash(), apart->table().hash());
  EXPECT_LT(fused->plan().memory().activations, apart->plan().memory().activations);
  expect_same_results(*fused, *apart);
  EXPECT_NEAR(run_small_cnn(true, false)->slot("loss")[0],
              run_small_cnn(false, false)->slot("loss")[0], 1e-6);
}

// Somebody reads what relu makes, so that the convolution takes relu in but not the pooling.
TEST(Fusion, LeavesAValueThatSomebodyReads) {
  const auto fused = run_small_cnn(true, true, true), apart = run_small_cnn(false, true, true);
  EXPECT_LT(fused->plan().memory().activations, apart->plan().memory().activations);
  EXPECT_THAT(fused->output("hidden"),
              Pointwise(testing::FloatNear(1e-6f), apart->output("hidden")));
  expect_same_results(*fused, *apart);
}

// ---- Gradients that are ready ----------------------------------------------------------------

TEST(GradientReady, GrowsOverWhatIsFinal) {
  for (const bool fuse : {true, false}) {
    const auto session = run_net({.fuse = fuse});
    const auto final_bytes = session->gradient_bytes();
    session->forward(kPass);
    // What backward has not finished is garbage here, so that a watermark too early is seen.
    session->spoil_gradients(session->table().slots_end);
    std::vector<std::size_t> calls;
    session->backward([&](std::size_t bytes) {
      EXPECT_TRUE(calls.empty() || bytes > calls.back()) << bytes;
      calls.push_back(bytes);
      const auto so_far = session->gradient_bytes();
      EXPECT_TRUE(std::equal(so_far.begin(), so_far.begin() + static_cast<std::ptrdiff_t>(bytes),
                             final_bytes.begin()))
          << bytes;
    });
    ASSERT_FALSE(calls.empty());
    EXPECT_EQ(calls.back(), session->table().gradient_bytes);
    EXPECT_GE(calls.size(), 5u) << "gradients should travel while backward goes on";
    EXPECT_EQ(session->gradient_bytes(), final_bytes);
  }
}

TEST(GradientReady, TableListsParametersAsBackwardFinishesThem) {
  Graph graph;
  record_net(graph);
  std::vector<std::string> names;
  for (const ArenaEntry& entry : make_parameter_table(graph).parameters)
    names.push_back(entry.name);
  EXPECT_THAT(
      names, ElementsAre("dense2.weight", "dense1.weight", "dense1.bias", "conv3.weight",
                         "norm.weight", "norm.bias", "conv2.weight", "conv1.weight", "conv1.bias"));
}

// ---- Table and first values ------------------------------------------------------------------

TEST(ParameterTable, DoesNotDependOnTheBatch) {
  Graph small, large;
  record_net(small);
  record_net(large, {.batch = 7});
  const ParameterTable table = make_parameter_table(small);
  EXPECT_EQ(table.hash(), make_parameter_table(large).hash());
  std::vector<std::string> slots;
  for (const ArenaEntry& slot : table.slots) slots.push_back(slot.name);
  EXPECT_THAT(slots, ElementsAre("loss", "norm.statistics", "correct"));
  EXPECT_EQ(table.parameters[0].offset, table.slots_end);
  for (const ArenaEntry& entry : table.parameters) EXPECT_EQ(entry.offset % kAlignment, 0u);
  EXPECT_THAT(message_of([&] { table.slot("accuracy"); }), HasSubstr("loss, norm.statistics"));
}

TEST(Initialize, IsAFunctionOfSeedNameAndIndex) {
  const auto values = [](bool swapped, std::uint64_t seed, const std::string& name) {
    Graph graph;
    const auto make = [&](const std::string& n) {
      return graph.parameter(n, {100}, Initializer::uniform(0.5f));
    };
    const Value first = make(swapped ? "b" : "a"), second = make(swapped ? "a" : "b");
    graph.set_loss(total(add(first, second)));
    const ParameterTable table = make_parameter_table(graph);
    Buffer parameters(table.gradient_bytes);
    initialize(table, seed, parameters.data(), nullptr);
    for (const ArenaEntry& entry : table.parameters)
      if (entry.name == name) {
        const auto* data = reinterpret_cast<const float*>(parameters.data() + entry.offset);
        return std::vector<float>(data, data + 100);
      }
    return std::vector<float>();
  };
  const auto a = values(false, 1, "a");
  EXPECT_EQ(a, values(true, 1, "a"));
  EXPECT_NE(a, values(false, 1, "b"));
  EXPECT_NE(a, values(false, 2, "a"));
  EXPECT_THAT(a, testing::Each(testing::AllOf(testing::Ge(-0.5f), testing::Lt(0.5f))));
  EXPECT_GT(*std::max_element(a.begin(), a.end()), 0.4f);
  EXPECT_LT(*std::min_element(a.begin(), a.end()), -0.4f);
}

// ---- Batch norm, dropout, slots --------------------------------------------------------------

TEST(BatchNorm, MovesItsAveragesAndEvaluatesByThem) {
  const auto record = [](Graph& graph) {
    const Value x = graph.input("x", {4, 1});
    const Value weight = graph.input("weight", {4});
    const Value gamma = graph.parameter("gamma", {1}, Initializer::constant(2));
    const Value beta = graph.parameter("beta", {1}, Initializer::constant(1));
    const Value y = batch_norm("norm", x, gamma, beta, weight, 0.1f, 0);
    graph.set_output("y", y);
    graph.set_loss(total(y));
  };
  Graph graph;
  record(graph);
  Session training(graph, true);
  training.set_input("x", {4, 1}, std::vector<float>{1, 2, 6, 1000});
  training.set_input("weight", {4}, std::vector<float>{1, 1, 1, 0});
  training.forward();
  EXPECT_THAT(training.slot("norm.statistics"), ElementsAre(9, 21, 3));  // n*mean, n*var, n
  training.backward();
  training.apply_slots();
  EXPECT_FLOAT_EQ(training.state("norm.running_mean")[0], 0.1f * 3);
  EXPECT_FLOAT_EQ(training.state("norm.running_var")[0], 0.9f + 0.1f * 7);

  Session evaluation(graph, false);
  evaluation.copy_states(training);
  evaluation.set_input("x", {4, 1}, std::vector<float>{1, 2, 6, 1000});
  evaluation.set_input("weight", {4}, std::vector<float>{1, 1, 1, 0});
  evaluation.forward();
  EXPECT_NEAR(evaluation.output("y")[0], (1 - 0.3) / std::sqrt(1.6) * 2 + 1, 1e-6);
  EXPECT_THAT(evaluation.slot("norm.statistics"), ElementsAre(0, 0, 0));
}

TEST(Dropout, FollowsThePassAndIsIdentityInEvaluation) {
  Graph graph;
  const Value w = graph.parameter("w", {4, 50}, Initializer::constant(1));
  const Value x = reshape(w, {200});
  const Value first = dropout(x, 0.5f), second = dropout(x, 0.5f);
  graph.set_output("first", first);
  graph.set_output("second", second);
  graph.set_loss(total(add(first, second)));
  Session training(graph, true);
  training.forward(kPass);
  const auto a = training.output("first");
  EXPECT_THAT(a, testing::Each(testing::AnyOf(0.0f, 2.0f)));
  EXPECT_NE(a, training.output("second")) << "two ops draw apart";
  PassKey other = kPass;
  other.virtual_rank = 2;
  training.forward(other);
  EXPECT_NE(a, training.output("first"));

  Session evaluation(graph, false);
  evaluation.forward(kPass);
  EXPECT_THAT(evaluation.output("first"), testing::Each(1.0f));
  EXPECT_EQ(evaluation.plan().slot_value(evaluation.stream(), "loss"), 400.0f);
}

TEST(Slots, AreReadableAfterForward) {
  const auto session = net_session(true);
  session->forward(kPass);
  Stream& stream = session->stream();
  EXPECT_EQ(session->slot("loss")[0], session->plan().slot_value(stream, "loss"));
  EXPECT_GT(session->plan().slot_value(stream, "loss"), 0);
  session->plan().forward(stream, kPass, nullptr);
  EXPECT_EQ(session->slot("loss")[0], session->plan().slot_value(stream, "loss"));
}

// ---- Errors --------------------------------------------------------------------------------

TEST(Errors, NameTheOpAndWhatIsAllowed) {
  Graph graph;
  const Value x = graph.input("x", {64, 1, 28, 28});
  const Value w = graph.parameter("w", {32, 3, 3, 3}, Initializer::constant(0));
  const Value labels = graph.input("labels", {64}, DType::i32);
  EXPECT_EQ(message_of([&] { conv2d(x, w, {}); }),
            "conv2d: weight (32, 3, 3, 3) wants 3 input channels, x (64, 1, 28, 28) has 1");
  const Value rows = flatten(x);
  EXPECT_EQ(message_of([&] {
              dense(rows, reshape(w, {32, 27}), {});
            }),
            "dense: weight (32, 27) wants 27 features, x (64, 784) has 784");
  EXPECT_THAT(message_of([&] { add(x, rows); }), HasSubstr("do not broadcast"));
  EXPECT_THAT(message_of([&] { relu(labels); }), HasSubstr("x wants f32, got i32"));
  EXPECT_THAT(message_of([&] { relu(Value()); }), HasSubstr("never assigned"));
  EXPECT_THAT(message_of([&] { slice(x, 1, 0, 2); }), HasSubstr("0 <= begin < end <= 1"));
  EXPECT_THAT(message_of([&] { transpose(x, {0, 1, 2, 2}); }), HasSubstr("axis 2 stands twice"));
  EXPECT_THAT(message_of([&] { reshape(x, {0, 0}); }), HasSubstr("more than one 0"));
  EXPECT_THAT(message_of([&] { reshape(x, {5, 0}); }), HasSubstr("does not fit"));
  EXPECT_THAT(message_of([&] {
                max_pool2d(x, {.kernel = {30, 2}});
              }),
              HasSubstr("a window of 30 does not fit into axis 2"));
  EXPECT_THAT(message_of([&] { dropout(x, 1); }), HasSubstr("allowed: [0, 1)"));
  EXPECT_THAT(message_of([&] { softmax_cross_entropy(rows, labels, w); }),
              HasSubstr("weight wants shape (64), got (32, 3, 3, 3)"));
  EXPECT_THAT(message_of([&] { graph.input("x", {1}); }), HasSubstr("\"x\" was declared before"));
  EXPECT_THAT(message_of([&] { graph.set_loss(x); }), HasSubstr("wants one element"));
  Graph other;
  EXPECT_THAT(message_of([&] { add(x, other.input("y", {1})); }), HasSubstr("two graphs"));
  const ParameterTable table = make_parameter_table(graph);
  EXPECT_THAT(message_of([&] { Plan(graph, table, kCpu, true); }), HasSubstr("without a loss"));
}

TEST(Errors, NameTheInput) {
  const auto session = net_session(false);
  EXPECT_THAT(message_of([&] {
                set_noise(*session, "x", {3, 3, 10, 11});
              }),
              HasSubstr("input \"x\": wants f32 (3, 3, 10, 10), got f32 (3, 3, 10, 11)"));
  EXPECT_THAT(message_of([&] { set_noise(*session, "y", {1}); }), HasSubstr("x, labels, weight"));
  EXPECT_THAT(message_of([&] { session->backward(); }), HasSubstr("not compiled for training"));
  Graph graph;
  graph.set_output("y", relu(graph.input("x", {2})));
  Session unset(graph, false);
  EXPECT_THAT(message_of([&] { unset.forward(); }), HasSubstr("input \"x\": was never set"));
}

}  // namespace
}  // namespace peal::plan_test
