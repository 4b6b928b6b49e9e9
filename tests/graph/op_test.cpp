// Every op, checked three ways: gradients against central finite differences of a float64
// reference; outputs and gradients against PyTorch's; the same bits run after run.
#include <gtest/gtest.h>

#include <cmath>
#include <thread>

#include "tests/golden/golden_file.h"
#include "tests/graph/op_rows.h"
#include "tests/graph/session.h"

namespace peal {
namespace {

const golden::Arrays& goldens() {
  static const golden::Arrays arrays = golden::read("ops.bin");
  return arrays;
}

class OpTest : public testing::TestWithParam<OpRow> {
 protected:
  const golden::Array& stored(const std::string& tensor) const {
    const auto found = goldens().find(GetParam().name + "/" + tensor);
    if (found == goldens().end())
      throw std::runtime_error("ops.bin lacks " + GetParam().name + "/" + tensor +
                               ": run tests/golden/make_op_golden.py");
    return found->second;
  }
  bool has(const std::string& tensor) const {
    return goldens().count(GetParam().name + "/" + tensor) > 0;
  }
  static std::string numbered(const std::string& name, int i) { return name + std::to_string(i); }
  int inputs() const {
    int count = 0;
    while (has(numbered("in", count))) ++count;
    return count;
  }

  // loss = sum(op(inputs) * projection); inputs with a gradient are parameters.
  void record(Graph& graph) const {
    std::vector<Value> values;
    for (int i = 0; i < inputs(); ++i) {
      const golden::Array& in = stored(numbered("in", i));
      values.push_back(has(numbered("grad", i))
                           ? graph.parameter(numbered("in", i), in.shape, Initializer::constant(0))
                           : graph.input(numbered("in", i), in.shape, in.dtype));
    }
    const Value out = GetParam().op(values);
    graph.set_output("out", out);
    const Value projection = graph.input("projection", stored("projection").shape);
    graph.set_loss(reduce_sum(reshape(mul(out, projection), {1, 0}), {0, 1}));
  }

  void fill(Session& session) const {
    for (int i = 0; i < inputs(); ++i) {
      const golden::Array& in = stored(numbered("in", i));
      if (has(numbered("grad", i)))
        session.set_parameter(numbered("in", i), in.f32);
      else if (in.dtype == DType::i32)
        session.set_input(numbered("in", i), in.shape, in.i32, DType::i32);
      else
        session.set_input(numbered("in", i), in.shape, in.f32);
    }
    session.set_input("projection", stored("projection").shape, stored("projection").f32);
  }

  std::unique_ptr<Session> run(Precision precision = Precision::f32) const {
    Graph graph;
    record(graph);
    auto session =
        std::make_unique<Session>(graph, /*training=*/true, PlanOptions{.precision = precision});
    fill(*session);
    session->forward(kRowPass);
    session->backward();
    return session;
  }

  // The reference's loss in float64.
  double loss(const reference::Arrays& in) const {
    const reference::Array out = GetParam().reference(in);
    double sum = 0;
    for (std::size_t i = 0; i < out.data.size(); ++i)
      sum += out.data[i] * static_cast<double>(stored("projection").f32[i]);
    return sum;
  }
  reference::Arrays reference_inputs() const {
    reference::Arrays arrays;
    for (int i = 0; i < inputs(); ++i) {
      const golden::Array& in = stored(numbered("in", i));
      arrays.emplace_back(in.shape);
      if (in.dtype == DType::i32)
        arrays.back().data.assign(in.i32.begin(), in.i32.end());
      else
        arrays.back().data.assign(in.f32.begin(), in.f32.end());
    }
    return arrays;
  }
};

// Every element within `tolerance` of the largest one (or of 1 when all are smaller).
template <typename T>
void expect_close(const std::vector<float>& actual, const std::vector<T>& expected,
                  double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 1;
  for (const T value : expected) largest = std::max(largest, std::abs(double{value}));
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_NEAR(actual[i], expected[i], tolerance * largest) << what << " element " << i;
}

TEST_P(OpTest, GradientsAreFiniteDifferences) {
  const auto session = run();
  reference::Arrays in = reference_inputs();
  expect_close(session->output("out"), GetParam().reference(in).data, 2e-6, "output");
  constexpr double kStep = 1e-5;
  int checked = 0;
  for (int i = 0; i < inputs(); ++i) {
    if (!has(numbered("grad", i))) continue;
    std::vector<double>& data = in[static_cast<std::size_t>(i)].data;
    std::vector<double> differences;
    for (double& x : data) {
      const double x0 = x;
      x = x0 + kStep;
      const double above = loss(in);
      x = x0 - kStep;
      differences.push_back((above - loss(in)) / (2 * kStep));
      x = x0;
    }
    expect_close(session->gradient(numbered("in", i)), differences, 4e-6, numbered("gradient ", i));
    ++checked;
  }
  EXPECT_GT(checked, 0);
}

TEST_P(OpTest, AgreesWithPyTorch) {
  const auto session = run();
  expect_close(session->output("out"), stored("out").f32, 2e-6, "output");
  for (int i = 0; i < inputs(); ++i)
    if (has(numbered("grad", i)))
      expect_close(session->gradient(numbered("in", i)), stored(numbered("grad", i)).f32, 4e-6,
                   numbered("gradient ", i));
}

TEST_P(OpTest, RepeatsItsBits) {
  const auto session = run();
  const auto first = session->gradient_bytes();
  const auto first_output = session->output("out");
  session->forward(kRowPass);
  session->backward();
  EXPECT_EQ(session->gradient_bytes(), first) << "in the same plan";
  EXPECT_EQ(session->output("out"), first_output);
  EXPECT_EQ(run()->gradient_bytes(), first) << "in a second plan";
  std::vector<std::byte> elsewhere;
  std::thread([&] { elsewhere = run()->gradient_bytes(); }).join();
  EXPECT_EQ(elsewhere, first) << "on another thread";
}

// Stored as bf16: an error of 2^-9 of a value wherever one is stored or copied for a product, of
// which the longest row here has some ten in a row.
TEST_P(OpTest, StoredAsBf16IsNear) {
  if (!stores_bf16()) GTEST_SKIP() << "no bf16 on " << to_string(test_device().device);
  constexpr double kTolerance = 10.0 / 512;
  const auto session = run(Precision::bf16), again = run(Precision::bf16);
  expect_close(session->output("out"), stored("out").f32, kTolerance, "output");
  for (int i = 0; i < inputs(); ++i)
    if (has(numbered("grad", i)))
      expect_close(session->gradient(numbered("in", i)), stored(numbered("grad", i)).f32,
                   kTolerance, numbered("gradient ", i));
  EXPECT_EQ(session->gradient_bytes(), again->gradient_bytes());
}

INSTANTIATE_TEST_SUITE_P(Rows, OpTest, testing::ValuesIn(op_rows()),
                         [](const auto& row) { return row.param.name; });

// A golden tensor that no row reads would be a check that never runs.
TEST(OpRows, CoverTheGoldenFile) {
  for (const auto& [name, array] : goldens()) {
    const std::string row = name.substr(0, name.find('/'));
    EXPECT_TRUE(std::any_of(op_rows().begin(), op_rows().end(), [&](const OpRow& r) {
      return r.name == row;
    })) << row;
  }
}

}  // namespace
}  // namespace peal
