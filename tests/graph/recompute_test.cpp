// PlanOptions::recompute: the bits of the plan without, in less memory, by running again only what
// backward reads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/graph/op_compiler.h"
#include "tests/graph/plan_helpers.h"

namespace peal::recompute_test {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr std::int64_t kRecords = 3;

// x, labels and the weights of records -> a value that a dense layer and the loss follow, or none
// where the body sets the loss.
struct Net {
  Shape x;
  std::function<Value(Graph& graph, Value x, Value labels, Value weight)> body;
};

void record(const Net& net, Graph& graph) {
  const Value x = graph.input("x", net.x);
  const Value labels = graph.input("labels", {kRecords}, DType::i32);
  const Value weight = graph.input("weight", {kRecords});
  const Value features = net.body(graph, x, labels, weight);
  if (!features.valid()) return;
  const Value y = flatten(features);
  const Value head = graph.parameter("head", {4, y.shape()[1]}, Initializer::uniform(0.1f));
  const Value logits = dense(y, head, Value());
  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
  graph.set_metric("correct", count_correct(logits, labels, weight));
}

// What two steps leave behind, bit by bit.
struct Result {
  std::vector<std::byte> gradients;             // and slots, of both steps
  std::vector<std::vector<float>> states;       // after both
  std::vector<std::vector<std::size_t>> ready;  // what on_gradient_ready told
  PlanMemory memory;
};

Result run(const Net& net, bool recompute, bool fuse = true, Precision precision = Precision::f32) {
  Graph graph;
  record(net, graph);
  Session session(graph, /*training=*/true,
                  {.fuse = fuse, .precision = precision, .recompute = recompute});
  session.set_input("labels", {kRecords}, std::vector<std::int32_t>{3, 0, 2}, DType::i32);
  session.set_input("weight", {kRecords}, std::vector<float>{1, 0, 1});
  Result result;
  for (std::uint64_t step = 0; step < 2; ++step) {
    session.set_input("x", net.x, noise(net.x.numel(), step));
    session.spoil_gradients(0);
    session.forward({.seed = 3, .step = step, .virtual_rank = 1}, 0.5f);
    result.ready.emplace_back();
    session.backward([&](std::size_t bytes) { result.ready.back().push_back(bytes); });
    session.apply_slots();
    const std::vector<std::byte> bytes = session.gradient_bytes();
    result.gradients.insert(result.gradients.end(), bytes.begin(), bytes.end());
  }
  for (const ArenaEntry& state : session.table().states)
    result.states.push_back(session.state(state.name));
  result.memory = session.plan().memory();
  return result;
}

// The saving, in bytes of the arena.
std::int64_t saved(const Net& net, bool fuse = true, Precision precision = Precision::f32) {
  const Result with = run(net, true, fuse, precision), without = run(net, false, fuse, precision);
  EXPECT_EQ(with.gradients, without.gradients);
  EXPECT_EQ(with.states, without.states);
  EXPECT_EQ(with.ready, without.ready);
  EXPECT_EQ(with.memory.activations_kept, without.memory.activations);
  EXPECT_EQ(without.memory.activations_kept, 0u);
  EXPECT_EQ(with.memory.scratch, without.memory.scratch);
  return static_cast<std::int64_t>(without.memory.activations) -
         static_cast<std::int64_t>(with.memory.activations);
}

// ---- Blocks as models have them ---------------------------------------------------------------

Value parameter(Graph& graph, const std::string& name, const Shape& shape) {
  return graph.parameter(name, shape, Initializer::uniform(0.2f));
}

Value conv_norm(const std::string& name, Value x, std::int64_t filters, std::int64_t stride,
                Value weight) {
  Graph& graph = x.graph();
  const Value w = parameter(graph, name + ".conv", {filters, x.shape()[1], 3, 3});
  const Value y = conv2d(x, w, {}, {.stride = {stride, stride}, .padding = {1, 1}});
  return batch_norm(name, y, parameter(graph, name + ".gamma", {filters}),
                    parameter(graph, name + ".beta", {filters}), weight);
}

Net residual_net(int blocks) {
  return {{kRecords, 3, 8, 8}, [=](Graph& graph, Value x, Value /*labels*/, Value weight) {
            x = relu(conv_norm("stem", x, 16, 1, weight));
            for (int i = 0; i < blocks; ++i) {
              const Graph::Block block(graph);
              const std::string name = cat("b", i, ".");
              const std::int64_t stride = i == 1 ? 2 : 1;
              Value y = relu(conv_norm(name + "1", x, 16, stride, weight));
              y = conv_norm(name + "2", y, 16, 1, weight);
              x = relu(add(y, stride == 1 ? x : conv_norm(name + "3", x, 16, stride, weight)));
            }
            return global_avg_pool2d(x);
          }};
}

Value affine_layer(const std::string& name, Value x, std::int64_t outputs) {
  return affine(x, parameter(x.graph(), name + ".w", {x.shape()[-1], outputs}),
                parameter(x.graph(), name + ".b", {outputs}));
}

Value norm_layer(const std::string& name, Value x) {
  const Shape row = {x.shape()[-1]};
  return layer_norm(x, parameter(x.graph(), name + ".g", row),
                    parameter(x.graph(), name + ".b", row));
}

constexpr std::int64_t kTime = 10, kWidth = 16;

Net transformer(int blocks) {
  return {{kRecords, kTime, kWidth},
          [=](Graph& graph, Value x, Value /*labels*/, Value /*weight*/) {
            x = dropout(add(x, parameter(graph, "positions", {kTime, kWidth})), 0.1f);
            for (int i = 0; i < blocks; ++i) {
              const Graph::Block block(graph);
              const std::string name = cat("b", i, ".");
              Value y = affine_layer(name + "qkv", norm_layer(name + "n1", x), 3 * kWidth);
              y = affine_layer(name + "out", attention(y, 2), kWidth);
              x = add(x, dropout(y, 0.2f));
              y = affine_layer(name + "up", norm_layer(name + "n2", x), 4 * kWidth);
              y = affine_layer(name + "down", gelu_tanh(y), kWidth);
              x = add(x, dropout(y, 0.2f));
            }
            return norm_layer("last", x);
          }};
}

TEST(Recompute, OfResidualBlocksSavesMemoryAndChangesNoBit) {
  for (const bool fuse : {true, false}) {
    const std::int64_t few = saved(residual_net(4), fuse), many = saved(residual_net(8), fuse);
    EXPECT_GT(few, 0) << fuse;
    // At least the results of two convolutions and of the norm between, each (3, 16, 4, 4).
    EXPECT_GE(many - few, 4 * 2 * kRecords * 16 * 4 * 4 * 4) << fuse;
  }
}

TEST(Recompute, OfTransformerBlocksSavesMemoryAndChangesNoBit) {
  const std::int64_t few = saved(transformer(3)), many = saved(transformer(7));
  EXPECT_GT(few, 0);
  // Of each block all but its input: norms, qkv, attention, the sum between, both sides of gelu.
  constexpr std::int64_t kInside = 1 + 3 + 1 + 1 + 1 + 4 + 4;
  EXPECT_GE(many - few, 4 * kInside * kRecords * kTime * kWidth * 4);
}

// Copies of the weights in bf16 belong to their block and are made again, too.
TEST(Recompute, OfStoredActivationsChangesNoBit) {
  if (!stores_bf16()) GTEST_SKIP() << "no bf16 on " << to_string(test_device().device);
  const std::int64_t few = saved(transformer(3), true, Precision::bf16);
  constexpr std::int64_t kWeights = 12 * kWidth * kWidth;  // of a block
  EXPECT_GE(saved(transformer(7), true, Precision::bf16) - few, 4 * kWeights * 2);
  EXPECT_GT(saved(residual_net(3), true, Precision::bf16), 0);
}

// With the option a deeper model needs no more than its blocks' inputs.
TEST(Recompute, KeepsWhatCrossesABorder) {
  const auto activations = [](int blocks) {
    Graph graph;
    record(transformer(blocks), graph);
    const ParameterTable table = make_parameter_table(graph);
    return Plan(graph, table, kCpu, true, {.outputs = false, .recompute = true})
        .memory()
        .activations;
  };
  EXPECT_EQ(activations(12) - activations(7), 5 * kRecords * kTime * kWidth * 4);
}

// ---- What blocks have to do with the rest -------------------------------------------------------

TEST(Recompute, LeavesWhatOthersRead) {
  const Net net{{kRecords, 16, 6, 6}, [](Graph& graph, Value x, Value /*labels*/, Value weight) {
                  Value inner, sums;
                  {
                    const Graph::Block block(graph);
                    const Value w = parameter(graph, "w", {16, 16, 3, 3});
                    inner = sigmoid(conv2d(x, w, {}, {.padding = {1, 1}}));
                    x = mul(inner, tanh(inner));
                    sums = reduce_sum(inner, {1, 2, 3});
                    graph.set_metric("sum", reduce_sum(reshape(sums, {kRecords, 1}), {0, 1}));
                  }
                  {
                    const Graph::Block block(graph);
                    x = gelu(batch_norm("n", mul(x, sigmoid(inner)), parameter(graph, "g", {16}),
                                        parameter(graph, "b", {16}), weight));
                  }
                  const Value rows = transpose(x, {0, 1, 3, 2});
                  {
                    const Graph::Block block(graph);
                    const Value parts[] = {slice(rows, 1, 0, 8), sigmoid(slice(inner, 1, 4, 12))};
                    x = mul(dropout(concat(parts, 1), 0.5f), reshape(sums, {kRecords, 1, 1, 1}));
                    graph.set_output("inside", x);
                    x = mul(x, tanh(x));
                  }
                  return x;
                }};
  for (const bool fuse : {true, false}) saved(net, fuse);
}

// A gradient may take the place of a value only when backward has read that for the last time.
TEST(Recompute, LetsGradientsTakeThePlaceOfLogits) {
  for (const bool read_twice : {false, true}) {
    const Net net{{kRecords, 5}, [=](Graph& graph, Value x, Value labels, Value weight) {
                    x = sigmoid(dense(x, parameter(graph, "first", {8, 5}), {}));
                    const Graph::Block block(graph);
                    const Value logits = dense(tanh(x), parameter(graph, "w", {40, 8}), {});
                    Value sum;
                    if (read_twice) sum = total(mul(logits, logits));
                    const Value loss = softmax_cross_entropy(logits, labels, weight);
                    graph.set_loss(read_twice ? add(loss, reshape(sum, {1})) : loss);
                    return Value();
                  }};
    saved(net);
  }
}

// Values of all ages, block borders anywhere.
Net random_net(std::uint64_t seed) {
  return {{kRecords, 16, 6, 6}, [=](Graph& graph, Value x, Value /*labels*/, Value weight) {
            const Random random({.seed = seed});
            std::vector<Value> made = {x};
            std::optional<Graph::Block> block;
            for (std::uint64_t i = 0; i < 30; ++i) {
              const auto draw = random.words(i);
              if (draw[3] % 4 == 0) block.reset();
              if (draw[3] % 4 == 0 && draw[3] % 3 > 0) block.emplace(graph);
              const auto recent = std::min<std::size_t>(made.size(), draw[2] % 8 == 0 ? 30 : 3);
              const Value a = made[made.size() - 1 - draw[0] % recent],
                          b = made[made.size() - 1 - draw[1] % recent];
              const auto weights = [&](const Shape& shape) {
                return parameter(graph, cat("p", i, ".", shape.rank()), shape);
              };
              const auto ops = std::vector<std::function<Value()>>{
                  [&] { return relu(a); },
                  [&] { return sigmoid(a); },
                  [&] { return gelu(a); },
                  [&] { return add(a, b); },
                  [&] { return relu(add(a, b)); },
                  [&] { return mul(a, b); },
                  [&] {
                    return mul(a, reshape(sigmoid(weights({16})), {16, 1, 1}));
                  },
                  [&] { return dropout(a, 0.3f); },
                  [&] {
                    return transpose(a, {0, 1, 3, 2});
                  },
                  [&] {
                    return add(a, reduce_mean(b, {2, 3}, /*keep_dims=*/true));
                  },
                  [&] {
                    const Value halves[] = {slice(a, 1, 8, 16), slice(b, 1, 0, 8)};
                    return concat(halves, 1);
                  },
                  [&] {
                    return conv2d(a, weights({16, 16, 3, 3}), {}, {.padding = {1, 1}});
                  },
                  [&] {
                    return relu(conv2d(a, weights({16, 16, 1, 1}), weights({16})));
                  },
                  [&] {
                    const Value beta = parameter(graph, cat("beta", i), {16});
                    return batch_norm(cat("n", i), a, weights({16}), beta, weight);
                  },
              };
              made.push_back(ops[draw[2] / 8 % ops.size()]());
            }
            return add(made.back(), made[made.size() / 2]);
          }};
}

TEST(Recompute, OfAnyGraphChangesNoBit) {
  int savings = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE(seed);
    savings += saved(random_net(seed), /*fuse=*/seed % 2 == 0) > 0;
  }
  EXPECT_GT(savings, 10) << "the graphs have hardly anything to recompute";
}

// ---- What runs how often --------------------------------------------------------------------

struct Counts {
  std::vector<std::string> calls;  // names of ops, as they ran
};

// tanh that says when it runs.
Value counted(const std::string& name, Counts& counts, Value x) {
  return x.graph().add_op(name, {x}, {{x.shape(), DType::f32}}, [&counts, name](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref in = c.in(0), y = c.out(), dy = c.grad_out(), dx = c.grad_in(0);
    c.forward({in, y}, [=, &k, &counts](peal::Run& r) {
      counts.calls.push_back(name);
      k.activation(r.stream, Activation::tanh, 0, r[in], r[y]);
    });
    c.backward({y, dy, dx}, [=, &k, &counts](peal::Run& r) {
      counts.calls.push_back("d" + name);
      k.activation_backward(r.stream, Activation::tanh, 0, {}, r[y], r[dy], r[dx]);
    });
  })[0];
}

TEST(Recompute, RunsAgainWhatBackwardReads) {
  Graph graph;
  Counts counts;
  Value y = counted("before", counts, graph.parameter("w", {kRecords}, Initializer::uniform(1)));
  {
    const Graph::Block block(graph);
    y = counted("b", counts, counted("a", counts, y));
    y = scale(counted("last", counts, y), 2);  // whose backward reads no value
  }
  {
    const Graph::Block block(graph);
    y = counted("c", counts, y);  // is kept: the loss reads it
  }
  {
    const Graph::Block block(graph);
    counted("idle", counts, y);  // reaches no loss
  }
  graph.set_loss(total(y));
  const auto calls = [&](bool training, bool recompute) {
    Session session(graph, training, {.outputs = false, .recompute = recompute});
    counts.calls.clear();
    session.forward();
    if (training) session.backward();
    return counts.calls;
  };
  EXPECT_THAT(calls(true, false), ElementsAre("before", "a", "b", "last", "c", "idle", "dc",
                                              "dlast", "db", "da", "dbefore"));
  EXPECT_THAT(calls(true, true), ElementsAre("before", "a", "b", "last", "c", "idle", "dc", "a",
                                             "b", "last", "dlast", "db", "da", "dbefore"));
  EXPECT_THAT(calls(false, true), ElementsAre("before", "a", "b", "last", "c", "idle"));
}

// y = tanh(x) by way of a copy that backward wants: only the call that makes the copy runs again,
// as the op says that the other does not write it.
TEST(Recompute, LeavesCallsThatOnlyReadWhatIsMadeAgain) {
  for (const bool says : {true, false}) {
    Graph graph;
    Counts counts;
    const Value w = graph.parameter("w", {kRecords}, Initializer::uniform(1));
    Value y;
    {
      const Graph::Block block(graph);
      y = graph.add_op("two", {w}, {{w.shape(), DType::f32}}, [&counts, says](OpCompiler& c) {
        Kernels& k = c.kernels();
        const Ref in = c.in(0), out = c.out(), dy = c.grad_out(), dx = c.grad_in(0);
        const Ref copy = c.memory(c.in_shape(0));
        c.forward({in, copy}, [=, &k, &counts](peal::Run& r) {
          counts.calls.push_back("copy");
          k.copy(r.stream, r[in], r[copy]);
        });
        if (says) c.written({copy});
        c.forward({copy, out}, [=, &k, &counts](peal::Run& r) {
          counts.calls.push_back("tanh");
          k.activation(r.stream, Activation::tanh, 0, r[copy], r[out]);
        });
        c.backward({copy, dy, dx}, [=, &k](peal::Run& r) {
          k.binary(r.stream, BinaryOp::mul, r[copy], r[dy], r[dx]);
        });
      })[0];
    }
    graph.set_loss(total(y));
    Session session(graph, true, {.recompute = true});
    session.forward();
    counts.calls.clear();
    session.backward();
    std::vector<std::string> expected = {"copy", "tanh"};
    if (says) expected.pop_back();
    EXPECT_EQ(counts.calls, expected);
  }
}

TEST(Recompute, LeavesOutputs) {
  for (const bool outputs : {true, false}) {
    Graph graph;
    Counts counts;
    Value y = graph.parameter("w", {kRecords}, Initializer::uniform(1));
    {
      const Graph::Block block(graph);
      y = counted("a", counts, y);
      graph.set_output("a", y);
      y = scale(y, 2);
    }
    graph.set_loss(total(y));
    Session session(graph, true, {.outputs = outputs, .recompute = true});
    session.forward();
    session.backward();
    const std::vector<std::string> kept = {"a", "da"}, forgotten = {"a", "a", "da"};
    EXPECT_EQ(counts.calls, outputs ? kept : forgotten);
  }
}

TEST(Recompute, IsNotForEvaluation) {
  Graph graph;
  record(transformer(3), graph);
  const ParameterTable table = make_parameter_table(graph);
  const auto memory = [&](bool recompute) {
    return Plan(graph, table, kCpu, /*training=*/false, {.recompute = recompute}).memory();
  };
  EXPECT_EQ(memory(true).activations, memory(false).activations);
  EXPECT_EQ(memory(true).activations_kept, 0u);
}

TEST(Blocks, FollowOneAnother) {
  Graph graph;
  EXPECT_EQ(graph.blocks(), 0);
  {
    const Graph::Block block(graph);
    EXPECT_THAT(message_of([&] { const Graph::Block inside(graph); }),
                HasSubstr("a block inside a block"));
    EXPECT_EQ(graph.blocks(), 1);
  }
  const Graph::Block next(graph);
  EXPECT_EQ(graph.blocks(), 2);
}

}  // namespace
}  // namespace peal::recompute_test
