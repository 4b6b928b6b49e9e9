// Recorded passes: where backward is cut, what is kept for which addresses, what may differ from
// one replay to the next, and that a plan that records has the bits of one that does not.
#include "core/graph/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <memory>

#include "core/graph/op_compiler.h"
#include "tests/allocations.h"
#include "tests/graph/plan_helpers.h"

namespace peal {

static bool operator==(const CallSegment& a, const CallSegment& b) {
  return a.begin == b.begin && a.end == b.end && a.bytes_final == b.bytes_final;
}
static void PrintTo(const CallSegment& s, std::ostream* out) {
  *out << "[" << s.begin << ", " << s.end << ") " << s.bytes_final;
}

namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Segments = std::vector<CallSegment>;

// ---- Cutting -------------------------------------------------------------------------------

TEST(CpuCutCalls, AtTheCallThatReachesABound) {
  const std::vector<std::size_t> bytes{0, 100, 0, 250, 300, 0, 900, 1000, 0};
  EXPECT_EQ(cut_calls(bytes, {}), (Segments{{0, 8, 1000}, {8, 9, 0}}));
  EXPECT_EQ(cut_calls(bytes, std::vector<std::size_t>{1000}), (Segments{{0, 8, 1000}, {8, 9, 0}}));
  EXPECT_EQ(cut_calls(bytes, std::vector<std::size_t>{250, 1000}),
            (Segments{{0, 4, 250}, {4, 8, 1000}, {8, 9, 0}}));
  EXPECT_EQ(cut_calls(bytes, std::vector<std::size_t>{260, 1000}),
            (Segments{{0, 5, 300}, {5, 8, 1000}, {8, 9, 0}}));
  // One call reaches three bounds; a bound that nothing reaches cuts nothing.
  EXPECT_EQ(cut_calls(bytes, std::vector<std::size_t>{1, 2, 400, 500, 600, 5000}),
            (Segments{{0, 2, 100}, {2, 7, 900}, {7, 8, 1000}, {8, 9, 0}}));
}

TEST(CpuCutCalls, OfFewCalls) {
  EXPECT_EQ(cut_calls({}, {}), Segments{});
  EXPECT_EQ(cut_calls(std::vector<std::size_t>{64}, std::vector<std::size_t>{64}),
            (Segments{{0, 1, 64}}));
  EXPECT_EQ(cut_calls(std::vector<std::size_t>{0, 0}, std::vector<std::size_t>{64}),
            (Segments{{0, 2, 0}}));
}

// ---- Keeping -------------------------------------------------------------------------------

TEST(CpuRecordings, AreKeptByAddressAndTheOldestGoes) {
  const int a = 0, b = 0, c = 0;
  const std::vector<const void*> ab{&a, &b}, ac{&a, &c}, cb{&c, &b};
  RecordingsByAddress kept(2);
  Stream s;
  int first = 0, second = 0;
  kept.at(ab).emplace_back(s, "first", [&](Stream&) { ++first; });
  EXPECT_TRUE(kept.at(ac).empty());
  kept.at(ac).emplace_back(s, "second", [&](Stream&) { ++second; });
  EXPECT_EQ(first + second, 0) << "recording is not doing";
  kept.at(ab)[0].replay(s);
  kept.at(ac)[0].replay(s);
  kept.at(ab)[0].replay(s);
  EXPECT_EQ(first, 2);
  EXPECT_EQ(second, 1);
  EXPECT_TRUE(kept.at(cb).empty()) << "the same addresses in another order";
  EXPECT_EQ(kept.size(), 2u);
  EXPECT_EQ(kept.at(ab).size(), 1u) << "used after the other";
  EXPECT_TRUE(kept.at(ac).empty()) << "it made room";
  kept.clear();
  EXPECT_TRUE(kept.at(ab).empty());
}

TEST(CpuRecording, Moves) {
  Stream s;
  int done = 0;
  Recording one(s, "work", [&](Stream&) { ++done; });
  Recording two = std::move(one);
  one = std::move(two);
  one.replay(s);
  Recording().replay(s);
  EXPECT_EQ(done, 1);
}

// ---- What differs from pass to pass ----------------------------------------------------------

TEST(PassMemory, HoldsTheKeyAndTheScaleAndIsWrittenWhereTheyChange) {
  const Device device = test_device().device;
  Stream s(device);
  PassMemory pass(device);
  const auto draws = [&] { return from_device<DrawKey>(s, pass.draws().data, 1)[0]; };
  const auto scale = [&] { return from_device<float>(s, pass.loss_scale().data, 1)[0]; };
  pass.set_key(s, kPass);
  pass.set_loss_scale(s, 0.25f);
  const RandomKey key{kPass.seed, kPass.step, kPass.virtual_rank};
  EXPECT_EQ(draws().seed, key.draws().seed);
  EXPECT_EQ(draws().turn, key.draws().turn);
  EXPECT_EQ(scale(), 0.25f);
  const DrawKey other{1, 2};
  to_device(s, pass.draws().as<std::byte>(), &other, sizeof other);
  pass.set_key(s, kPass);
  EXPECT_EQ(draws().turn, 2u) << "a key that is there already costs nothing";
  for (PassKey next : {PassKey{4, 5, 1}, PassKey{4, 6, 1}, PassKey{4, 6, 2}}) {
    pass.set_key(s, next);
    EXPECT_EQ(draws().seed, next.seed);
    EXPECT_EQ(draws().turn, turn_of(next.step, next.virtual_rank));
  }
  pass.set_loss_scale(s, -3);
  EXPECT_EQ(scale(), -3);
}

// ---- Whole plans -----------------------------------------------------------------------------

constexpr std::int64_t kBatch = 4;

// Convolution with a layout of its own, batch norm with running averages, dropout twice.
void record_net(Graph& graph) {
  const auto weights = [&](const std::string& name, const Shape& shape) {
    return graph.parameter(name, shape, Initializer::uniform(0.3f));
  };
  const Value x = graph.input("x", {kBatch, 3, 8, 8});
  const Value labels = graph.input("labels", {kBatch}, DType::i32);
  const Value weight = graph.input("weight", {kBatch});
  const Graph::Block block(graph);
  Value y = relu(conv2d(x, weights("conv.weight", {16, 3, 3, 3}), weights("conv.bias", {16})));
  y = batch_norm("norm", y, weights("norm.weight", {16}), weights("norm.bias", {16}), weight);
  y = dropout(max_pool2d(y), 0.3f);
  y = relu(dense(flatten(y), weights("dense1.weight", {20, 144}), weights("dense1.bias", {20})));
  const Value logits = dense(dropout(y, 0.5f), weights("dense2.weight", {4, 20}), {});
  graph.set_loss(softmax_cross_entropy(logits, labels, weight));
  graph.set_metric("correct", count_correct(logits, labels, weight));
}

// One plan with two places for each input and three for gradients, on the device of the tests.
class Passes {
 public:
  explicit Passes(const PlanOptions& options, std::vector<std::size_t> bounds = {})
      : session_(*graph_of(), /*training=*/true, options) {
    session_.plan().set_gradient_bounds(std::move(bounds));
    for (std::size_t i = 0; i < 2; ++i) {
      x_[i] = Buffer(kBatch * 192 * sizeof(float), device_);
      labels_[i] = Buffer(kBatch * sizeof(std::int32_t), device_);
      weight_[i] = Buffer(kBatch * sizeof(float), device_);
    }
    for (Buffer& each : gradients_) each = Buffer(session_.table().gradient_bytes, device_);
  }

  // Step `step` with new values in inputs `in`, its gradients in `out`; all bytes that it leaves.
  std::vector<std::byte> run(std::size_t step, std::size_t in, std::size_t out) {
    const std::vector<float> x = noise(kBatch * 192, 100 + step);
    const std::vector<std::int32_t> labels{3, static_cast<std::int32_t>(step % 4), 2, 1};
    const std::vector<float> weight{1, 1, 1, step % 3 == 2 ? 0.0f : 1.0f};
    Stream& s = session_.stream();
    to_device(s, x_[in].data(), x.data(), x_[in].size());
    to_device(s, labels_[in].data(), labels.data(), labels_[in].size());
    to_device(s, weight_[in].data(), weight.data(), weight_[in].size());
    Plan& plan = session_.plan();
    plan.set_input("x", {x_[in].data(), {kBatch, 3, 8, 8}, DType::f32, device_});
    plan.set_input("labels", {labels_[in].data(), {kBatch}, DType::i32, device_});
    plan.set_input("weight", {weight_[in].data(), {kBatch}, DType::f32, device_});
    std::byte* const gradients = gradients_[out].data();
    const std::vector<std::byte> nans(gradients_[out].size(), std::byte{0xff});
    to_device(s, gradients, nans.data(), nans.size());
    ready.clear();
    plan.forward(s, {.seed = 7, .step = step / 2, .virtual_rank = step % 2}, gradients,
                 step % 4 == 3 ? 0.125f : 0.25f);
    plan.backward(s, gradients, [&](std::size_t bytes) { ready.push_back(bytes); });
    plan.apply_slots(s, gradients);
    auto bytes = from_device<std::byte>(s, gradients, gradients_[out].size());
    for (const char* state : {"norm.running_mean", "norm.running_var"})
      for (const float value : session_.state(state))
        for (const std::byte b : std::bit_cast<std::array<std::byte, 4>>(value)) bytes.push_back(b);
    return bytes;
  }

  Plan& plan() { return session_.plan(); }
  const ParameterTable& table() const { return session_.table(); }
  std::vector<std::size_t> ready;

 private:
  static std::unique_ptr<Graph> graph_of() {
    auto graph = std::make_unique<Graph>();
    record_net(*graph);
    return graph;
  }

  const Device device_ = test_device().device;
  Session session_;
  std::array<Buffer, 2> x_, labels_, weight_;
  std::array<Buffer, 3> gradients_;
};

class ReplayBits : public testing::TestWithParam<bool> {};  // train.recompute

// Keys, loss scales, inputs and the places of inputs and gradients change at times of their own.
TEST_P(ReplayBits, HasTheBitsOfPlainPasses) {
  Passes plain({.outputs = false, .recompute = GetParam()});
  Passes recorded({.outputs = false, .recompute = GetParam(), .record = true});
  std::vector<std::byte> last;
  for (std::size_t step = 0; step < 40; ++step) {
    const std::size_t in = step / 3 % 2, out = step / 5 % 3;
    const auto want = plain.run(step, in, out);
    ASSERT_EQ(recorded.run(step, in, out), want) << "step " << step;
    ASSERT_NE(want, last) << "the test tests nothing";
    last = want;
  }
  EXPECT_EQ(recorded.plan().recorded_forward(), 6u);
  EXPECT_EQ(recorded.plan().recorded_backward(), 6u);
  EXPECT_EQ(plain.plan().recorded_forward(), 0u);
}
INSTANTIATE_TEST_SUITE_P(Of, ReplayBits, testing::Bool());

TEST(Replay, TellsOfGradientsAtTheBoundsOnly) {
  Passes plain({.outputs = false});
  plain.run(0, 0, 0);
  const std::vector<std::size_t> all = plain.ready;
  ASSERT_GE(all.size(), 4u);
  const std::size_t end = plain.table().gradient_bytes;
  const auto told = [&](std::vector<std::size_t> bounds) {
    Passes recorded({.outputs = false, .record = true}, std::move(bounds));
    recorded.run(0, 0, 0);
    EXPECT_EQ(recorded.ready, all) << "the first pass is a plain one";
    recorded.run(1, 0, 0);
    return recorded.ready;
  };
  EXPECT_THAT(told({}), ElementsAre(end));
  EXPECT_THAT(told({all[1], end}), ElementsAre(all[1], end));
  EXPECT_THAT(told({all[0] + 1, all[1] - 1, end}), ElementsAre(all[1], end));
  EXPECT_EQ(told(all), all);
}

// What was told to be final is final then: what comes later in backward is garbage until then.
TEST(Replay, WhatIsToldIsFinal) {
  Graph graph;
  record_net(graph);
  const std::size_t end = make_parameter_table(graph).gradient_bytes;
  Session session(graph, true, {.outputs = false, .record = true});
  session.set_input("x", {kBatch, 3, 8, 8}, noise(kBatch * 192));
  session.set_input("labels", {kBatch}, std::vector<std::int32_t>{3, 0, 2, 1}, DType::i32);
  session.set_input("weight", {kBatch}, std::vector<float>{1, 1, 1, 1});
  session.plan().set_gradient_bounds(
      {session.table().parameters[1].offset, session.table().parameters[3].offset, end});
  session.forward(kPass);
  session.backward();
  const auto final_bytes = session.gradient_bytes();
  for (int round = 0; round < 2; ++round) {  // recorded, then replayed
    session.forward(kPass);
    session.spoil_gradients(session.table().slots_end);
    std::vector<std::size_t> told;
    session.backward([&](std::size_t bytes) {
      const auto so_far = session.gradient_bytes();
      EXPECT_TRUE(std::equal(so_far.begin(), so_far.begin() + static_cast<std::ptrdiff_t>(bytes),
                             final_bytes.begin()))
          << bytes;
      told.push_back(bytes);
    });
    EXPECT_THAT(told, testing::SizeIs(3));
    EXPECT_EQ(told.back(), end);
    EXPECT_EQ(session.gradient_bytes(), final_bytes);
  }
}

TEST(Replay, KeepsSoManyAndNoMore) {
  Passes plain({.outputs = false}), recorded({.outputs = false, .record = true});
  const Device device = test_device().device;
  Stream s(device);
  std::vector<Buffer> places;
  for (std::size_t i = 0; i < kMostRecorded + 3; ++i)
    places.emplace_back(plain.table().gradient_bytes, device);
  for (Passes* each : {&plain, &recorded}) each->run(0, 0, 0);
  for (int round = 0; round < 2; ++round) {
    for (const Buffer& place : places) {
      std::vector<std::byte> bytes[2];
      Passes* const both[] = {&plain, &recorded};
      for (int i = 0; i < 2; ++i) {
        Plan& plan = both[i]->plan();
        plan.forward(s, kPass, place.data(), 0.5f);
        plan.backward(s, place.data(), {});
        bytes[i] = from_device<std::byte>(s, place.data(), place.size());
      }
      ASSERT_EQ(bytes[0], bytes[1]);
      ASSERT_LE(recorded.plan().recorded_backward(), kMostRecorded);
    }
  }
  EXPECT_EQ(recorded.plan().recorded_forward(), kMostRecorded);
}

TEST(Replay, ForgetsWhereParametersWere) {
  Graph graph;
  graph.set_loss(total(scale(graph.parameter("w", {8}, Initializer::constant(1)), 2)));
  const Device device = test_device().device;
  const ParameterTable table = make_parameter_table(graph);
  Plan plan(graph, table, device, true, {.record = true});
  Buffer one(table.gradient_bytes, device), two(table.gradient_bytes, device),
      gradients(table.gradient_bytes, device);
  Stream s(device);
  const auto loss = [&](const Buffer& parameters, float w) {
    const std::vector<float> values(8, w);
    to_device(s, parameters.data() + table.parameters[0].offset, values.data(), 32);
    plan.forward(s, {}, gradients.data());
    return from_device<float>(s, gradients.data(), 1)[0];
  };
  plan.bind(one.data(), nullptr);
  EXPECT_EQ(loss(one, 1), 16);
  EXPECT_EQ(loss(one, 2), 32);
  plan.bind(two.data(), nullptr);
  EXPECT_EQ(loss(two, 3), 48);
  EXPECT_EQ(plan.recorded_forward(), 1u);
}

TEST(Replay, NamesTheOpThatCannotBeRecorded) {
  Graph graph;
  const Value w = graph.parameter("w", {1}, Initializer::constant(1));
  int calls = 0;
  const auto made = graph.add_op("picky", {w}, {{{1}, DType::f32}}, [&](OpCompiler& c) {
    const Ref x = c.in(0), y = c.out();
    const Ref dy = c.grad_out(), dx = c.grad_in(0);
    Kernels& k = c.kernels();
    c.forward({x, y}, [=, &k, &calls](peal::Run& r) {
      if (++calls == 2) fail_internal("kernel", "did not work");
      k.copy(r.stream, r[x], r[y]);
    });
    c.backward({dy, dx}, [=, &k](peal::Run& r) { k.copy(r.stream, r[dy], r[dx]); });
  });
  graph.set_loss(made[0]);
  Session session(graph, true, {.record = true});
  session.forward();
  EXPECT_THAT(message_of([&] { session.forward(); }),
              HasSubstr("kernel: did not work; in picky of a recorded forward"));
  // The stream and the plan work as before.
  session.forward();
  EXPECT_EQ(session.slot("loss")[0], 1);
}

TEST(CpuReplay, AllocatesNothingOnceItIsRecorded) {
  Graph graph;
  record_net(graph);
  Session session(graph, true, {.outputs = false, .record = true});
  session.set_input("x", {kBatch, 3, 8, 8}, noise(kBatch * 192));
  session.set_input("labels", {kBatch}, std::vector<std::int32_t>{3, 0, 2, 1}, DType::i32);
  session.set_input("weight", {kBatch}, std::vector<float>{1, 1, 1, 1});
  session.plan().set_gradient_bounds({session.table().gradient_bytes / 2});
  std::size_t told = 0;
  const Plan::OnGradientReady ready = [&](std::size_t bytes) { told = bytes; };
  const auto step = [&](std::uint64_t number) {
    session.forward({.seed = 1, .step = number}, 1.0f / static_cast<float>(number));
    session.backward(ready);
    session.apply_slots();
  };
  step(1);
  step(2);
  EXPECT_EQ(count_allocations([&] {
              step(3);
              step(4);
            }),
            0);
  EXPECT_EQ(told, session.table().gradient_bytes);
}

}  // namespace
}  // namespace peal
