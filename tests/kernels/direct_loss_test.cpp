#include <limits>

#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

const float kNan = std::numeric_limits<float>::quiet_NaN();

// Weight 0 for every fourth record.
std::vector<float> weights(std::size_t records) {
  std::vector<float> weight(records, 1.0f);
  for (std::size_t b = 2; b < records; b += 4) weight[b] = 0;
  return weight;
}

struct Classes {
  Classes(std::int64_t rows, std::int64_t classes, double deviation = 3)
      : shape{rows, classes},
        logits(normals(count(shape), 1, deviation)),
        labels(static_cast<std::size_t>(rows)),
        weight(weights(labels.size())),
        saved(2 * labels.size()) {
    const Random random({.seed = 2});
    for (std::size_t b = 0; b < labels.size(); ++b) {
      labels[b] = static_cast<std::int32_t>(random.u64(b) % static_cast<std::uint64_t>(classes));
    }
  }
  double reference(const std::vector<double>& x) const {
    double sum = 0;
    const auto columns = static_cast<std::size_t>(shape[1]);
    for (std::size_t b = 0; b < labels.size(); ++b) {
      const double* row = x.data() + b * columns;
      const double largest = *std::max_element(row, row + columns);
      double total = 0;
      for (std::size_t c = 0; c < columns; ++c) total += std::exp(row[c] - largest);
      sum += weight[b / positions()] * (std::log(total) + largest - row[labels[b]]);
    }
    return sum / static_cast<double>(positions());
  }
  std::size_t positions() const { return labels.size() / weight.size(); }
  float forward() {
    Stream s;
    float loss = kNan;
    kernels_under_test().softmax_cross_entropy(s, view(logits, shape), view(labels, {shape[0]}),
                                               view(weight, {records}), view(saved, {shape[0], 2}),
                                               {.data = &loss, .shape = {}});
    return loss;
  }
  std::vector<float> backward(float dloss) {
    Stream s;
    std::vector<float> dx(logits.size(), kNan);
    kernels_under_test().softmax_cross_entropy_backward(
        s, view(logits, shape), view(saved, {shape[0], 2}), view(labels, {shape[0]}),
        view(weight, {records}), {.data = &dloss, .shape = {}}, view(dx, shape));
    return dx;
  }

  Shape shape;
  std::vector<float> logits;
  std::vector<std::int32_t> labels;
  std::vector<float> weight, saved;
  std::int64_t records = shape[0];  // of shape[0] / records rows each
};

TEST(DirectCrossEntropy, FollowsTheFormulaAndFiniteDifferences) {
  for (const auto& [records, classes] :
       {std::pair{1, 1}, std::pair{5, 2}, std::pair{130, 10}, std::pair{7, 16}, std::pair{9, 37}}) {
    Classes k(records, classes);
    const double expected = k.reference(doubles(k.logits));
    EXPECT_NEAR(k.forward(), expected, 1.5e-7 * expected + 1e-12);
    const auto f = [&](const std::vector<double>& x) { return 0.25 * k.reference(x); };
    expect_close(k.backward(0.25f), numeric_gradient(f, doubles(k.logits)), 1e-7, 5e-8);
  }
}

TEST(DirectCrossEntropy, ManyClassesAndLargeLogits) {
  Classes k(3, 5001, 30);
  const double expected = k.reference(doubles(k.logits));
  EXPECT_NEAR(k.forward(), expected, 1.5e-7 * expected);
  for (float& x : k.logits) x += 1e6f;
  EXPECT_TRUE(std::isfinite(k.forward()));
}

TEST(DirectCrossEntropy, ARecordsLossIsTheMeanOverItsRows) {
  Classes k(21, 10);
  k.records = 7;
  k.weight = weights(7);
  k.weight[0] = 0.5f;
  const double expected = k.reference(doubles(k.logits));
  EXPECT_NEAR(k.forward(), expected, 1.5e-7 * expected);
  const auto f = [&](const std::vector<double>& x) { return 0.25 * k.reference(x); };
  const std::vector<float> dx = k.backward(0.25f);
  expect_close(dx, numeric_gradient(f, doubles(k.logits)), 1e-7, 5e-8);
  for (std::size_t i = 60; i < 90; ++i) EXPECT_EQ(dx[i], 0.0f) << "record 2 is padded";

  Stream s;
  float dloss = 0.25f;
  kernels_under_test().softmax_cross_entropy_backward(
      s, view(k.logits, k.shape), view(k.saved, {21, 2}), view(k.labels, {21}), view(k.weight, {7}),
      {.data = &dloss, .shape = {}}, view(k.logits, k.shape));
  EXPECT_EQ(k.logits, dx) << "in place";
}

TEST(DirectCrossEntropy, PaddedRecordsAreNotLookedAt) {
  Classes k(6, 10), dirty(6, 10);
  std::fill_n(dirty.logits.begin() + 20, 10, kNan);
  dirty.labels[2] = 1 << 30;
  EXPECT_EQ(k.forward(), dirty.forward());
  const std::vector<float> dx = dirty.backward(0.5f);
  EXPECT_EQ(k.backward(0.5f), dx);
  for (std::size_t c = 20; c < 30; ++c) EXPECT_EQ(dx[c], 0.0f);
  std::fill(dirty.weight.begin(), dirty.weight.end(), 0.0f);
  EXPECT_EQ(dirty.forward(), 0.0f);
}

TEST(DirectCrossEntropy, ANanIsSeen) {
  Classes k(6, 10);
  k.logits[3] = kNan;
  EXPECT_TRUE(std::isnan(k.forward()));
}

TEST(DirectCountCorrect, TakesTheFirstOfEqualMaxima) {
  Stream s;
  std::vector<float> logits = {1, 3, 3, 5, 2, 1, 0, 0, 0, 9, 1, 1};
  std::vector<std::int32_t> labels = {1, 0, 2, 0};
  std::vector<float> weight = {1, 1, 1, 0};
  float right = kNan;
  const auto count_right = [&] {
    kernels_under_test().count_correct(s, view(logits, {4, 3}), view(labels, {4}),
                                       view(weight, {4}), {.data = &right, .shape = {}});
    return right;
  };
  EXPECT_EQ(count_right(), 2.0f);
  labels[0] = 2;
  EXPECT_EQ(count_right(), 1.0f);
  weight[3] = 1;
  EXPECT_EQ(count_right(), 2.0f);
}

struct Pairs {
  explicit Pairs(const Shape& s)
      : shape(s),
        x(normals(count(s), 1, 4)),
        t(normals(count(s), 2)),
        weight(weights(static_cast<std::size_t>(s[0]))) {}
  Tensor weight_view() { return view(weight, {shape[0]}); }

  Shape shape;
  std::vector<float> x, t, weight;
};

TEST(DirectBinaryCrossEntropy, FollowsTheFormulaAndFiniteDifferences) {
  Stream s;
  Pairs k({101});
  k.x[0] = 60;
  k.x[1] = -60;
  for (float& t : k.t) t = t > 0 ? 1.0f : 0.0f;
  float loss = kNan, dloss = 0.5f;
  std::vector<float> dx(101);
  const auto f = [&](const std::vector<double>& x) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      sum += k.weight[i] *
             (std::max(x[i], 0.0) - k.t[i] * x[i] + std::log1p(std::exp(-std::fabs(x[i]))));
    }
    return sum;
  };
  kernels_under_test().binary_cross_entropy(s, view(k.x, k.shape), view(k.t, k.shape),
                                            k.weight_view(), {.data = &loss, .shape = {}});
  EXPECT_NEAR(loss, f(doubles(k.x)), 1e-7 * loss);
  k.x[2] = k.t[2] = kNan;  // padded
  kernels_under_test().binary_cross_entropy_backward(s, view(k.x, k.shape), view(k.t, k.shape),
                                                     k.weight_view(), {.data = &dloss, .shape = {}},
                                                     view(dx, k.shape));
  EXPECT_EQ(dx[2], 0.0f);
  k.x[2] = k.t[2] = 0;
  auto expected = numeric_gradient(f, doubles(k.x));
  for (double& v : expected) v *= 0.5;
  expect_close(dx, expected, 1e-7, 1e-9);
}

TEST(DirectBinaryCrossEntropy, CountsTheRightSide) {
  Stream s;
  std::vector<float> x = {1, -1, 0, 2, -3}, t = {1, 1, 0, 1, 0}, weight = {1, 1, 1, 0, 1};
  float right = kNan;
  kernels_under_test().count_correct_binary(s, view(x, {5}), view(t, {5}), view(weight, {5}),
                                            {.data = &right, .shape = {}});
  EXPECT_EQ(right, 3.0f);
}

TEST(DirectSquaredError, FollowsTheFormulaAndFiniteDifferences) {
  Stream s;
  for (const Shape& shape : {Shape{1, 1}, Shape{7, 5}, Shape{6, 33}}) {
    Pairs k(shape);
    const auto f = [&](const std::vector<double>& x) {
      double sum = 0;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const auto features = static_cast<std::size_t>(shape[1]);
        sum += k.weight[i / features] * (x[i] - k.t[i]) * (x[i] - k.t[i]) /
               static_cast<double>(features);
      }
      return sum;
    };
    const double expected = f(doubles(k.x));
    const auto gradient = numeric_gradient(f, doubles(k.x));
    float loss = kNan, dloss = 1;
    std::vector<float> dx(k.x.size(), kNan);
    if (shape[0] > 2) k.x[static_cast<std::size_t>(2 * shape[1])] = kNan;  // padded
    kernels_under_test().squared_error(s, view(k.x, shape), view(k.t, shape), k.weight_view(),
                                       {.data = &loss, .shape = {}});
    kernels_under_test().squared_error_backward(s, view(k.x, shape), view(k.t, shape),
                                                k.weight_view(), {.data = &dloss, .shape = {}},
                                                view(dx, shape));
    EXPECT_NEAR(loss, expected, 7e-8 * expected);
    expect_close(dx, gradient, 3e-7, 1e-9);
  }
}

}  // namespace
}  // namespace peal::direct
