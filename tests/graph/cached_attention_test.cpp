// cached_attention: the op's rows are those of attention, of the formula and of PyTorch. It has no
// gradient, so it is no row of the op table, but takes attention's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/golden/golden_file.h"
#include "tests/graph/op_rows.h"
#include "tests/graph/plan_helpers.h"

namespace peal {
namespace {

using testing::HasSubstr;

constexpr std::int64_t kHeads = 2;  // of attention's row

const golden::Array& stored(const std::string& tensor) {
  static const golden::Arrays arrays = golden::read("ops.bin");
  return arrays.at("attention/" + tensor);
}

// Rows begin..end of x (B, T, columns).
std::vector<float> rows_of(const std::vector<float>& x, const Shape& shape, std::int64_t begin,
                           std::int64_t end) {
  std::vector<float> rows;
  for (std::int64_t b = 0; b < shape[0]; ++b) {
    const auto from = x.begin() + b * shape[1] * shape[2];
    rows.insert(rows.end(), from + begin * shape[2], from + end * shape[2]);
  }
  return rows;
}

// A text of which the first positions, and then one after the other, are computed over a cache that
// has room for one more than there are.
class CachedRows : public testing::TestWithParam<std::int64_t> {
 protected:
  std::unique_ptr<Session> session(std::int64_t length, bool next) const {
    Graph graph;
    const Value qkv = graph.input("qkv", {batch, length, 3 * width});
    const Value kept = graph.input("cache", cache.shape);
    const Value position = next ? graph.input("position", {1}, DType::i32) : Value();
    graph.set_output("y", cached_attention(qkv, kHeads, kept, position));
    auto made = std::make_unique<Session>(graph, /*training=*/false);
    made->plan().set_input("cache", cache);
    return made;
  }

  std::vector<float> run(Session& of, std::int64_t begin, std::int64_t end) const {
    of.set_input("qkv", {batch, end - begin, 3 * width}, rows_of(in.f32, in.shape, begin, end));
    of.forward();
    return of.output("y");
  }

  const golden::Array &in = stored("in0"), &out = stored("out");
  const std::int64_t batch = in.shape[0], time = in.shape[1], width = in.shape[2] / 3;
  const Device device = test_device().device;
  const Buffer memory{static_cast<std::size_t>(batch * (time + 1) * 2 * width) * sizeof(float),
                      device};
  const Tensor cache{
      memory.data(), {batch, 2, kHeads, time + 1, width / kHeads}, DType::f32, device};
};

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], 2e-6 * std::max(1.0f, std::abs(expected[i]))) << i;
}

TEST_P(CachedRows, IsAttentionRowByRow) {
  Stream s(device);
  const std::vector<float> nans(memory.size() / sizeof(float),
                                std::numeric_limits<float>::quiet_NaN());
  to_device(s, memory.data(), nans.data(), memory.size());
  reference::Arrays arrays;
  arrays.emplace_back(in.shape);
  arrays[0].data.assign(in.f32.begin(), in.f32.end());
  const std::vector<double> exact = reference::attention(kHeads)(arrays).data;
  const std::vector<float> formula(exact.begin(), exact.end());
  const auto check = [&](const std::vector<float>& y, std::int64_t begin, std::int64_t end) {
    expect_near(y, rows_of(out.f32, out.shape, begin, end));
    expect_near(y, rows_of(formula, out.shape, begin, end));
  };
  const std::int64_t first = GetParam();
  if (first > 0) check(run(*session(first, /*next=*/false), 0, first), 0, first);
  const auto step = session(1, /*next=*/true);
  for (std::int64_t t = first; t < time; ++t) {
    SCOPED_TRACE(t);
    step->set_input("position", {1}, std::vector<std::int32_t>{static_cast<std::int32_t>(t)},
                    DType::i32);
    check(run(*step, t, t + 1), t, t + 1);
    const auto once = step->output("y");
    step->forward();
    EXPECT_EQ(step->output("y"), once) << "again, which writes the same row";
  }
}

INSTANTIATE_TEST_SUITE_P(First, CachedRows, testing::Values(0, 1, 3, 5));

TEST(CachedAttention, NamesWhatDoesNotFit) {
  Graph graph;
  const Value qkv = graph.input("qkv", {2, 3, 12}), cache = graph.input("cache", {2, 2, 2, 5, 2});
  const Value position = graph.input("position", {1}, DType::i32);
  const auto said = [&](Value a, std::int64_t heads, Value b, Value t = {}) {
    return message_of([&] { cached_attention(a, heads, b, t); });
  };
  EXPECT_THAT(said(graph.input("flat", {2, 12}), 2, cache), HasSubstr("qkv wants 3 dimensions"));
  EXPECT_THAT(said(graph.input("odd", {2, 3, 11}), 2, cache), HasSubstr("(B, T, 3*C)"));
  EXPECT_THAT(said(qkv, 3, cache), HasSubstr("3 heads do not divide 4 columns"));
  EXPECT_THAT(said(qkv, 2, graph.input("other", {1, 2, 2, 5, 2})),
              HasSubstr("cache wants shape (2, 2, 2, 5, 2), got (1, 2, 2, 5, 2)"));
  EXPECT_THAT(said(qkv, 2, graph.input("short", {2, 2, 2, 2, 2})),
              HasSubstr("3 positions; cache (2, 2, 2, 2, 2) has room for 2"));
  EXPECT_THAT(said(qkv, 2, cache, position), HasSubstr("wants one position"));
  EXPECT_THAT(said(qkv, 2, cache, graph.input("real", {1})), HasSubstr("position wants i32"));
}

TEST(CachedAttention, IsNotForTraining) {
  Graph graph;
  const Value qkv = graph.parameter("qkv", {1, 2, 6}, Initializer::normal(1));
  const Value y = cached_attention(qkv, 1, graph.input("cache", {1, 2, 1, 2, 2}));
  graph.set_loss(total(y));
  EXPECT_THAT(message_of([&] { Session(graph, /*training=*/true); }),
              HasSubstr("cached_attention: has no gradient"));
  Session(graph, /*training=*/false);
}

// One that only computes an output has the table of another graph with the same parameters.
TEST(PlanTable, MayBeThatOfAGraphWithALoss) {
  const auto model = [](Graph& graph) {
    return dense(graph.input("x", {1, 3}), graph.parameter("w", {2, 3}, Initializer::normal(1)),
                 graph.parameter("b", {2}, Initializer::normal(1)));
  };
  Graph whole, part;
  const Value y = model(whole);
  whole.set_output("y", y);
  whole.set_loss(total(y));
  part.set_output("y", model(part));
  Session of_whole(whole, /*training=*/false);
  of_whole.set_input("x", {1, 3}, std::vector<float>{1, 2, 3});
  of_whole.forward();

  const ParameterTable table = make_parameter_table(whole);
  const Device device = test_device().device;
  std::vector<std::byte> host(table.gradient_bytes), states(table.state_bytes);
  initialize(table, /*seed=*/1, host.data(), states.data());
  const Buffer parameters(host.size(), device), x(3 * sizeof(float), device);
  Stream s(device);
  to_device(s, parameters.data(), host.data(), host.size());
  const std::vector<float> values = {1, 2, 3};
  to_device(s, x.data(), values.data(), x.size());
  Plan plan(part, table, device, /*training=*/false);
  plan.bind(parameters.data(), nullptr);
  plan.set_input("x", {x.data(), {1, 3}, DType::f32, device});
  plan.forward(s, {}, nullptr);
  EXPECT_EQ(from_device<float>(s, plan.output("y").data, 2), of_whole.output("y"));

  Graph odd;
  odd.set_output("y", dense(odd.input("x", {1, 3}),
                            odd.parameter("v", {2, 3}, Initializer::normal(1)), Value()));
  EXPECT_THAT(message_of([&] { Plan(odd, table, device, /*training=*/false); }),
              HasSubstr("\"v\" is not in the parameter table"));
}

}  // namespace
}  // namespace peal
