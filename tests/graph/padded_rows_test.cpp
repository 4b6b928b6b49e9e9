// Rows of a dense layer's result that are padded (PlanOptions::pad_rows_to): the same values and
// gradients, whoever reads it and whatever it is read as.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "tests/graph/plan_helpers.h"
#include "tests/halves.h"

namespace peal::padded_rows_test {
namespace {

constexpr std::int64_t kRecords = 4, kTime = 3, kWidth = 10, kHidden = 13, kClasses = 21;
const std::vector<const char*> kParameters = {"w1", "b1", "w2", "b2"};

enum class Readers : std::uint8_t { loss, loss_and_others };

// Two layers, the first with relu and read row-major, then cross entropy as a language model has
// it.
void record(Graph& graph, Readers readers, bool bias) {
  const Value x = graph.input("x", {kRecords * kTime, kWidth});
  const Value w1 = graph.parameter("w1", {kHidden, kWidth}, Initializer::uniform(0.6f));
  const Value b1 = graph.parameter("b1", {kHidden}, Initializer::uniform(0.5f));
  const Value w2 = graph.parameter("w2", {kClasses, kHidden}, Initializer::uniform(0.6f));
  const Value b2 = graph.parameter("b2", {kClasses}, Initializer::uniform(0.5f));
  Value logits = dense(relu(dense(x, w1, b1)), w2, bias ? b2 : Value());
  const Value flat = logits;
  logits = reshape(logits, {kRecords, kTime, kClasses});
  Value loss = softmax_cross_entropy(logits, graph.input("labels", {kRecords, kTime}, DType::i32),
                                     graph.input("weight", {kRecords}));
  if (readers == Readers::loss_and_others) {
    graph.set_output("logits", logits);
    loss = add(loss, total(scale(tanh(transpose(logits, {1, 0, 2})), 0.1f)));
    loss = add(loss, total(scale(tanh(flat), 0.1f)));
  }
  graph.set_loss(loss);
}

std::unique_ptr<Session> run(const Graph& graph, PlanOptions options) {
  auto session = std::make_unique<Session>(graph, true, options);
  set_noise(*session, "x", {kRecords * kTime, kWidth});
  std::vector<std::int32_t> labels;
  for (std::int32_t i = 0; i < kRecords * kTime; ++i) labels.push_back(i * 5 % kClasses);
  session->set_input("labels", {kRecords, kTime}, labels, DType::i32);
  session->set_input("weight", {kRecords}, std::vector<float>{1, 0, 2, 1});
  session->forward();
  session->backward();
  return session;
}

std::vector<Precision> precisions() {
  const Device& device = test_device().device;
  std::vector<Precision> all;
  if (device.kind == Device::Kind::cpu) all.push_back(Precision::f32);
  for (const Precision precision : {Precision::bf16, Precision::f16})
    if (kernels(device).has_precision(precision)) all.push_back(precision);
  return all;
}

class PaddedRows : public testing::TestWithParam<std::tuple<Readers, bool, bool>> {};

TEST_P(PaddedRows, GiveWhatOthersGive) {
  const auto [readers, bias, fuse] = GetParam();
  Graph graph;
  record(graph, readers, bias);
  for (const Precision precision : precisions()) {
    PlanOptions options{.fuse = fuse, .precision = precision};
    const auto plain = run(graph, options);
    options.pad_rows_to = 8;
    const auto padded = run(graph, options);
    EXPECT_NE(padded->plan().memory().activations, plain->plan().memory().activations);
    // Where products add up in another order, a half may be rounded to its neighbour.
    const double near = precision == Precision::f32 ? 1e-6 : 3e-3;
    for (const char* name : kParameters) {
      if (!bias && std::string(name) == "b2") continue;
      EXPECT_LT(distance(padded->gradient(name), plain->gradient(name)), near) << name;
    }
    if (readers == Readers::loss) continue;
    EXPECT_LT(distance(padded->output("logits"), plain->output("logits")), near);
  }
}

INSTANTIATE_TEST_SUITE_P(Of, PaddedRows,
                         testing::Combine(testing::Values(Readers::loss, Readers::loss_and_others),
                                          testing::Bool(), testing::Bool()));

// An evaluation, whose readers want rows that follow each other.
TEST(PaddedRowsOfAnEvaluation, AreCounted) {
  Graph graph;
  const Value x = graph.input("x", {kRecords, kWidth});
  const Value w = graph.parameter("w", {kClasses, kWidth}, Initializer::uniform(1));
  const Value labels = graph.input("labels", {kRecords}, DType::i32),
              weight = graph.input("weight", {kRecords});
  const Value logits = dense(x, w, {});
  graph.set_output("loss", softmax_cross_entropy(logits, labels, weight));
  graph.set_output("right", count_correct(logits, labels, weight));
  graph.set_output("logits", logits);
  for (const Precision precision : precisions()) {
    const auto outputs = [&](std::int64_t pad, const std::vector<std::int32_t>& of_records) {
      Session session(graph, false, {.precision = precision, .pad_rows_to = pad});
      set_noise(session, "x", {kRecords, kWidth});
      session.set_input("labels", {kRecords}, of_records, DType::i32);
      session.set_input("weight", {kRecords}, std::vector<float>(kRecords, 1));
      session.forward();
      return std::tuple(session.output("loss"), session.output("right"), session.output("logits"));
    };
    const std::vector<float> plain = std::get<2>(outputs(0, {0, 1, 2, 3}));
    std::vector<std::int32_t> largest;
    for (auto row = plain.begin(); row != plain.end(); row += kClasses)
      largest.push_back(static_cast<std::int32_t>(std::max_element(row, row + kClasses) - row));
    const auto [loss, right, values] = outputs(0, largest);
    const auto [loss_2, right_2, values_2] = outputs(8, largest);
    EXPECT_EQ(right_2, std::vector<float>{kRecords});
    EXPECT_EQ(right_2, right);
    EXPECT_LT(distance(values_2, values), precision == Precision::f32 ? 1e-6 : 3e-3);
    EXPECT_NEAR(loss_2[0], loss[0], 2e-3 * loss[0]);
  }
}

}  // namespace
}  // namespace peal::padded_rows_test
