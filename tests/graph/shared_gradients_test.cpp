// Gradients in one memory (PlanOptions::share), and sums of them by the ops that have the parts
// (PlanOptions::ops_add): the bits of a plan in which each has its own, and calls add them up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>

#include "core/graph/op_compiler.h"
#include "tests/graph/plan_helpers.h"

namespace peal::shared_gradients_test {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kRecords = 4, kTime = 3, kWidth = 16;
const Shape kShape = {kRecords, kTime, kWidth}, kFlat = {kRecords * kTime, kWidth};

Value parameter(Graph& graph, const std::string& name, const Shape& shape) {
  return graph.parameter(name, shape, Initializer::uniform(0.3f));
}

struct Adding {
  bool adds = false, in_place = false;
};

// 2 x, by an op that adds what is there to its gradient, in place where it may.
Value twice(Value x, Adding* last = nullptr) {
  return x.graph().add_op("twice", {x}, {{x.shape(), DType::f32}}, [last](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref in = c.in(0), y = c.out(), dy = c.grad_out(), dx = c.grad_in(0);
    const Ref more = c.grad_in_more(0, /*in_place=*/true), part = c.memory(c.in_shape(0));
    c.forward({in, y}, [=, &k](peal::Run& r) { k.scale(r.stream, 2, r[in], r[y]); });
    c.backward({dy, more, dx, part}, [=, &k](peal::Run& r) {
      if (last != nullptr) *last = {!r[more].empty(), r[more].data == r[dx].data};
      k.scale(r.stream, 2, r[dy], r[more].empty() ? r[dx] : r[part]);
      if (!r[more].empty()) k.binary(r.stream, BinaryOp::add, r[part], r[more], r[dx]);
    });
  })[0];
}

// Sums above all, of values of all ages, with ops between that work in place on their gradient.
void record_random(Graph& graph, std::uint64_t seed) {
  const Random random({.seed = seed});
  const Value x = graph.input("x", kShape);
  const Value weight = graph.input("weight", {kRecords});
  std::vector<Value> made = {mul(x, parameter(graph, "first", {kWidth}))};
  std::optional<Graph::Block> block;
  for (std::uint64_t i = 0; i < 24; ++i) {
    const auto draw = random.words(i);
    if (draw[3] % 4 == 0) block.reset();
    if (draw[3] % 4 == 0 && draw[3] % 3 > 0) block.emplace(graph);
    const auto recent = std::min<std::size_t>(made.size(), draw[2] % 8 == 0 ? 24 : 3);
    const Value a = made[made.size() - 1 - draw[0] % recent],
                b = made[made.size() - 1 - draw[1] % recent];
    const auto p = [&](const char* name, const Shape& shape) {
      return parameter(graph, cat("p", i, name), shape);
    };
    const auto layer = [&] {
      return dense(reshape(a, kFlat), p("w", {kWidth, kWidth}), p("b", {kWidth}));
    };
    const auto norm = [&] {
      return batch_norm(cat("n", i), reshape(a, {kRecords, kWidth, kTime}), p("g", {kWidth}),
                        p("b", {kWidth}), weight);
    };
    const auto ops = std::vector<std::function<Value()>>{
        [&] { return add(a, b); },
        [&] { return add(a, b); },
        [&] { return add(b, add(a, b)); },
        [&] { return reshape(add(reshape(a, kFlat), reshape(b, kFlat)), kShape); },
        [&] { return relu(a); },
        [&] { return gelu_tanh(add(a, b)); },
        [&] { return reshape(layer(), kShape); },
        [&] { return reshape(relu(layer()), kShape); },
        [&] {
          return reshape(relu(add(norm(), reshape(b, {kRecords, kWidth, kTime}))), kShape);
        },
        [&] {
          return affine(a, p("w", {kWidth, kWidth}), p("b", {kWidth}));
        },
        [&] { return layer_norm(a, p("g", {kWidth}), p("b", {kWidth})); },
        [&] { return add(a, layer_norm(add(a, b), p("g", {kWidth}), p("b", {kWidth}))); },
        [&] { return add(layer_norm(a, p("g", {kWidth}), p("b", {kWidth})), scale(a, 3)); },
        [&] { return add(twice(a), b); },
        [&] { return dropout(a, 0.3f); },
        [&] { return add(a, p("same", kShape)); },
        [&] { return add(a, p("row", {kWidth})); },
        [&] { return mul(scale(a, 0.5f), sigmoid(b)); },
        [&] {
          return transpose(transpose(add(a, b), {0, 2, 1}), {0, 2, 1});
        },
    };
    made.push_back(ops[draw[2] / 8 % ops.size()]());
    if (draw[3] % 16 == 3) graph.set_output(cat("out", i), made.back());
  }
  block.reset();
  const Value logits = add(made.back(), made[made.size() / 2]);
  const Value labels = graph.input("labels", {kRecords, kTime}, DType::i32);
  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
}

struct Result {
  std::vector<std::byte> gradients;
  std::vector<std::string> calls;
};

std::int64_t count(const Result& result, const char* call) {
  return std::count(result.calls.begin(), result.calls.end(), call);
}

std::int64_t copies(const Result& result) {
  return count(result, "copy");
}

Result run(const Graph& graph, const PlanOptions& options) {
  Session session(graph, /*training=*/true, options);
  set_noise(session, "x", kShape);
  session.set_input("weight", {kRecords}, std::vector<float>{1, 0, 2, 1});
  std::vector<std::int32_t> labels;
  for (std::int32_t i = 0; i < kRecords * kTime; ++i) labels.push_back(i * 5 % kWidth);
  session.set_input("labels", {kRecords, kTime}, labels, DType::i32);
  session.forward(kPass);
  session.backward();
  return {session.gradient_bytes(), session.plan().backward_calls()};
}

// An op may round a sum of halves once where two calls round it twice.
bool rounds_as_calls(Precision precision) {
  return precision == Precision::f32 || test_device().device.kind == Device::Kind::cpu;
}

TEST(SharedGradients, OfAnyGraphAreThoseApart) {
  std::int64_t fewer = 0, left = 0, by_ops = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Graph graph;
    record_random(graph, seed);
    PlanOptions options{.fuse = seed % 2 == 0, .outputs = seed % 3 == 0, .recompute = seed % 5 < 2};
    if (seed % 4 == 1) options.pad_rows_to = 32;
    if (seed % 4 == 3 && kernels(test_device().device).has_precision(Precision::bf16))
      options.precision = Precision::bf16;
    const Result together = run(graph, options);
    options.share = false;
    const Result apart = run(graph, options);
    ASSERT_EQ(together.gradients, apart.gradients);
    options.ops_add = false;
    const Result by_calls = run(graph, options);
    if (rounds_as_calls(options.precision)) {
      ASSERT_EQ(apart.gradients, by_calls.gradients);
    }
    by_ops += count(by_calls, "accumulate") - count(apart, "accumulate");
    fewer += copies(apart) - copies(together);
    left += copies(together);
  }
  EXPECT_GT(fewer, 4 * left) << "hardly any memory is shared";
  EXPECT_GT(left, 0) << "no graph has a gradient that must be copied";
  EXPECT_GT(by_ops, 40) << "hardly any op adds to a gradient";
}

// ---- Sums over consumers ----------------------------------------------------------------------

// What reads x: it is a term of a sum itself, or an op has it that adds to a gradient or does not.
enum class Reader : std::uint8_t { term, scale, norm, twice };

Value parameter_or_computed(Graph& graph, bool computed) {
  const Value first = parameter(graph, "first", kShape);
  return computed ? mul(graph.input("x", kShape), first) : first;
}

// The sum of what the readers make of x, each of which may see it in another shape.
void record_readers(Graph& graph, const std::vector<Reader>& readers, bool computed) {
  const Value x = parameter_or_computed(graph, computed);
  if (!computed) graph.input("x", kShape);
  std::vector<Value> terms;
  for (std::size_t i = 0; i < readers.size(); ++i) {
    const Value seen = i % 2 == 1 ? reshape(x, kFlat) : x;
    const auto p = [&](const char* name) { return parameter(graph, cat(name, i), {kWidth}); };
    Value made = x;
    if (readers[i] == Reader::scale) made = scale(seen, 0.7f);
    if (readers[i] == Reader::norm) made = layer_norm(seen, p("gamma"), p("beta"));
    if (readers[i] == Reader::twice) made = twice(seen);
    terms.push_back(reshape(made, kShape));
  }
  Value sum = terms[0];
  for (std::size_t i = 1; i < terms.size(); ++i) sum = add(sum, terms[i]);
  graph.set_loss(softmax_cross_entropy(sum, graph.input("labels", {kRecords, kTime}, DType::i32),
                                       graph.input("weight", {kRecords})));
}

// Calls that add up: the sums' backward runs first, the others' in the reverse order. The first
// part begins the sum, and an op adds its own to it, in a parameter's gradient in place alone.
std::int64_t expected_calls(const std::vector<Reader>& readers, bool computed) {
  const bool norm_adds = computed || kernels(test_device().device)
                                         .make_layer_norm(kRecords * kTime, kWidth, 1e-5f)
                                         ->adds_in_place();
  const auto terms = std::count(readers.begin(), readers.end(), Reader::term);
  std::int64_t calls = std::max<std::int64_t>(terms - 1, 0);
  bool begun = terms > 0;
  for (auto reader = readers.rbegin(); reader != readers.rend(); ++reader) {
    if (*reader == Reader::term) continue;
    const bool adds = *reader == Reader::twice || (*reader == Reader::norm && norm_adds);
    calls += begun && !adds;
    begun = true;
  }
  return calls;
}

TEST(SummedGradients, OfAnyReadersAreThoseThatCallsAddUp) {
  constexpr std::int64_t kReaders = 4;
  for (std::int64_t n = 1; n <= kReaders; ++n) {
    const auto all = static_cast<std::int64_t>(std::pow(kReaders, n));
    for (std::int64_t which = 0; which < 2 * all; ++which) {
      SCOPED_TRACE(cat(n, " readers, ", which));
      const bool computed = which < all;
      std::vector<Reader> readers;
      for (std::int64_t rest = which % all, i = 0; i < n; ++i, rest /= kReaders)
        readers.push_back(static_cast<Reader>(rest % kReaders));
      Graph graph;
      record_readers(graph, readers, computed);
      const Result by_ops = run(graph, {}), apart = run(graph, {.share = false}),
                   by_calls = run(graph, {.share = false, .ops_add = false});
      ASSERT_EQ(by_ops.gradients, by_calls.gradients);
      ASSERT_EQ(apart.gradients, by_calls.gradients);
      ASSERT_EQ(count(by_calls, "accumulate"), n - 1);
      ASSERT_EQ(count(by_ops, "accumulate"), expected_calls(readers, computed));
      ASSERT_EQ(count(apart, "accumulate"), expected_calls(readers, computed));
    }
  }
}

// In the memory of the sum before, if nobody reads that later: dy, which the op reads, may be the
// same memory, as both are the gradient of a sum.
TEST(SummedGradients, AreInPlaceWhereNobodyReadsTheSumBefore) {
  for (const bool behind : {false, true})
    for (const bool computed : {false, true}) {
      Graph graph;
      Adding adding;
      const Value x = parameter_or_computed(graph, computed);
      if (!computed) graph.input("x", kShape);
      const Value y = twice(x, &adding);
      graph.set_loss(softmax_cross_entropy(add(x, behind ? y : scale(y, 3)),
                                           graph.input("labels", {kRecords, kTime}, DType::i32),
                                           graph.input("weight", {kRecords})));
      const Result together = run(graph, {});
      EXPECT_TRUE(adding.adds);
      EXPECT_EQ(adding.in_place, !computed || !behind);
      EXPECT_EQ(copies(together), computed ? 0 : 1);
      EXPECT_EQ(count(together, "accumulate"), 0);
      EXPECT_EQ(together.gradients, run(graph, {.ops_add = false}).gradients);
    }
}

// Words at one end and their logits at the other, in the order of backward first.
TEST(SummedGradients, OfATableThatIsAWeightTooAreAddedUpByTheEmbedding) {
  for (const bool computed : {false, true}) {
    Graph graph;
    graph.input("x", kShape);
    const Value ids = graph.input("labels", {kRecords, kTime}, DType::i32);
    Value table = parameter(graph, "table", {kWidth, kWidth});
    if (computed) table = mul(table, parameter(graph, "factors", {kWidth}));
    const Value logits = dense(reshape(embedding(ids, table), kFlat), table, Value());
    graph.set_loss(
        softmax_cross_entropy(reshape(logits, kShape), ids, graph.input("weight", {kRecords})));
    const Result by_calls = run(graph, {.ops_add = false});
    EXPECT_EQ(count(by_calls, "accumulate"), 1);
    for (const bool share : {false, true}) {
      const Result by_ops = run(graph, {.share = share});
      EXPECT_EQ(by_ops.gradients, by_calls.gradients);
      EXPECT_EQ(count(by_ops, "accumulate"), 0);
    }
  }
}

// An op that has one value as two inputs adds what was there before its call, which is not yet the
// other input's part, whichever of the two the call lists first.
TEST(SummedGradients, OfOneValueTwiceInOneCallAreBothAdded) {
  for (const bool adding_first : {false, true}) {
    Graph graph;
    const Value x = mul(graph.input("x", kShape), parameter(graph, "first", kShape));
    const Value y = x.graph().add_op("both", {x, x}, {{kShape, DType::f32}}, [=](OpCompiler& c) {
      Kernels& k = c.kernels();
      const Ref in = c.in(0), z = c.out(), dz = c.grad_out(), dx = c.grad_in(0);
      const Ref more = c.grad_in_more(0, /*in_place=*/false), other = c.grad_in(1);
      c.forward({in, z}, [=, &k](peal::Run& r) { k.scale(r.stream, 3, r[in], r[z]); });
      c.backward({dz, more, adding_first ? dx : other, adding_first ? other : dx},
                 [=, &k](peal::Run& r) {
                   k.scale(r.stream, 2, r[dz], r[dx]);
                   if (!r[more].empty()) k.accumulate(r.stream, r[more], r[dx]);
                   k.scale(r.stream, 1, r[dz], r[other]);
                 });
    })[0];
    graph.set_loss(softmax_cross_entropy(add(y, scale(x, 5)),
                                         graph.input("labels", {kRecords, kTime}, DType::i32),
                                         graph.input("weight", {kRecords})));
    const Result by_ops = run(graph, {}), by_calls = run(graph, {.ops_add = false});
    EXPECT_EQ(count(by_ops, "accumulate"), adding_first ? 1 : 2);
    EXPECT_EQ(by_ops.gradients, by_calls.gradients);
  }
}

// ---- As models have them ----------------------------------------------------------------------

Value block(Graph& graph, const std::string& name, Value x) {
  const auto p = [&](const char* part, const Shape& shape) {
    return parameter(graph, name + part, shape);
  };
  const auto layer = [&](const char* part, Value v, std::int64_t outputs) {
    return affine(v, p(part, {v.shape()[-1], outputs}),
                  p((std::string(part) + ".b").c_str(), {outputs}));
  };
  const auto norm = [&](const char* part, Value v) {
    return layer_norm(v, p(part, {kWidth}), p((std::string(part) + ".b").c_str(), {kWidth}));
  };
  Value y = layer("qkv", norm("n1", x), 3 * kWidth);
  x = add(x, layer("out", attention(y, 2), kWidth));
  y = layer("up", norm("n2", x), 4 * kWidth);
  return add(x, dropout(layer("down", gelu_tanh(y), kWidth), 0.1f));
}

// The gradient of what passes through all blocks stays in one place.
TEST(SharedGradients, OfATransformerAreNeverCopied) {
  Graph graph;
  Value x = mul(graph.input("x", kShape), parameter(graph, "first", {kWidth}));
  for (int i = 0; i < 3; ++i) x = block(graph, cat("b", i, "."), x);
  graph.set_loss(softmax_cross_entropy(x, graph.input("labels", {kRecords, kTime}, DType::i32),
                                       graph.input("weight", {kRecords})));
  const Result together = run(graph, {}), apart = run(graph, {.share = false});
  EXPECT_EQ(together.gradients, apart.gradients);
  EXPECT_EQ(copies(together), 0);
  EXPECT_EQ(copies(apart), 3 * 3);  // a product that adds a residual has one, an add two
}

// An op that writes its gradient: the other term's is then a copy where it is read later.
Value worked_in_place(Value x, bool says) {
  return x.graph().add_op("doubled", {x}, {{x.shape(), DType::f32}}, [says](OpCompiler& c) {
    Kernels& k = c.kernels();
    const Ref in = c.in(0), y = c.out(), dx = c.grad_in(0);
    const Ref dy = says ? c.grad_out_in_place() : c.grad_out();
    c.forward({in, y}, [=, &k](peal::Run& r) { k.scale(r.stream, 2, r[in], r[y]); });
    c.backward({dy, dx}, [=, &k](peal::Run& r) {
      k.scale(r.stream, 2, r[dy], r[dy]);
      k.copy(r.stream, r[dy], r[dx]);
    });
  })[0];
}

void record_in_place(Graph& graph, bool says) {
  const Value x = mul(graph.input("x", kShape), parameter(graph, "first", {kWidth}));
  const Value early = scale(x, 3), late = worked_in_place(x, says);  // backward: late comes first
  graph.set_loss(softmax_cross_entropy(add(early, late),
                                       graph.input("labels", {kRecords, kTime}, DType::i32),
                                       graph.input("weight", {kRecords})));
}

TEST(SharedGradients, AreCopiedBeforeAnOpThatWorksInPlace) {
  Graph graph;
  record_in_place(graph, true);
  const Result together = run(graph, {});
  EXPECT_EQ(together.gradients, run(graph, {.share = false}).gradients);
  EXPECT_EQ(copies(together), 1);
}

TEST(SharedGradients, StopAnOpThatDoesNotSayThatItWorksInPlace) {
  Graph graph;
  record_in_place(graph, false);
  EXPECT_THAT(message_of([&] { run(graph, {}); }),
              HasSubstr("doubled backward: writes what it may only read"));
}

}  // namespace
}  // namespace peal::shared_gradients_test
