// Rows that are short, long, too long to be kept and not of whole packs of four: a device has a
// form of its kernels for each.
#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

constexpr std::int64_t kColumns[] = {30,   32,   251,  256,  300,  301,
                                     1000, 1028, 2047, 8196, 9001, 60004};

struct Row {
  Row(std::int64_t rows_, std::int64_t columns_)
      : rows(static_cast<std::size_t>(rows_)),
        columns(static_cast<std::size_t>(columns_)),
        shape{rows_, columns_},
        x(normals(rows * columns, 1, 2)),
        dy(normals(rows * columns, 2)) {}

  // f(first element) for each row
  template <class F>
  void for_rows(F f) const {
    for (std::size_t r = 0; r < rows; ++r) f(r * columns);
  }

  std::size_t rows, columns;
  Shape shape;
  std::vector<float> x, dy;
};

std::vector<double> log_softmax(const Row& k) {
  std::vector<double> y(k.x.size());
  k.for_rows([&](std::size_t at) {
    double total = 0;
    for (std::size_t c = 0; c < k.columns; ++c) total += std::exp(k.x[at + c] - 3.0);
    for (std::size_t c = 0; c < k.columns; ++c) y[at + c] = k.x[at + c] - 3.0 - std::log(total);
  });
  return y;
}

// sum(a * b) over a row of columns
template <class A, class B>
double dot(const A& a, const B& b, std::size_t at, std::size_t columns) {
  double sum = 0;
  for (std::size_t c = 0; c < columns; ++c) {
    sum += static_cast<double>(a[at + c]) * static_cast<double>(b[at + c]);
  }
  return sum;
}

TEST(LargeRows, Softmax) {
  Stream s;
  for (const std::int64_t columns : kColumns) {
    for (const bool log : {false, true}) {
      Row k(columns < 2000 ? 11 : 3, columns);
      const auto softmax = kernels_under_test().make_softmax(k.shape[0], columns, log);
      std::vector<float> y(k.x.size()), dx(k.x.size()), pad(softmax->scratch_bytes() / 4 + 1);
      const Tensor scratch = view(pad, {static_cast<std::int64_t>(pad.size())});
      softmax->forward(s, view(k.x, k.shape), view(y, k.shape), scratch);
      softmax->backward(s, view(y, k.shape), view(k.dy, k.shape), view(dx, k.shape), scratch);
      std::vector<double> expected = log_softmax(k), gradient(y.size()), share = expected;
      for (double& v : share) v = std::exp(v);
      const std::vector<float> ones(y.size(), 1.0f);
      k.for_rows([&](std::size_t at) {
        const double total = log ? dot(k.dy, ones, at, k.columns) : dot(k.dy, share, at, k.columns);
        for (std::size_t c = at; c < at + k.columns; ++c) {
          gradient[c] = log ? k.dy[c] - share[c] * total : share[c] * (k.dy[c] - total);
        }
      });
      // In f32 the logarithm of a large sum, and what is multiplied by one, are that much off.
      const double off = log ? 1e-5 : 3e-6;
      expect_close(y, log ? expected : share, 3e-6, log ? off : 1e-9, "y");
      expect_close(dx, gradient, off, off, "dx");
    }
  }
}

TEST(LargeRows, LayerNorm) {
  Stream s;
  constexpr float kEpsilon = 1e-5f;
  const auto check = [&](std::int64_t rows, std::int64_t columns) {
    SCOPED_TRACE(testing::Message() << rows << " x " << columns);
    Row k(rows, columns);
    const Shape row{columns}, column{rows};
    const auto norm = kernels_under_test().make_layer_norm(rows, columns, kEpsilon);
    std::vector<float> gamma = normals(k.columns, 3), beta = normals(k.columns, 4);
    std::vector<float> y(k.x.size()), dx(k.x.size()), mean(k.rows), variance(k.rows);
    std::vector<float> dgamma(k.columns), dbeta(k.columns), pad(norm->scratch_bytes() / 4 + 2);
    const Tensor scratch = view(pad, {static_cast<std::int64_t>(pad.size())});
    const Tensor x = view(k.x, k.shape);
    norm->forward(s, x, view(gamma, row), view(beta, row), view(y, k.shape), view(mean, column),
                  view(variance, column), scratch);
    norm->backward(s, x, view(gamma, row), view(mean, column), view(variance, column),
                   view(k.dy, k.shape), {}, view(dx, k.shape), view(dgamma, row), view(dbeta, row),
                   scratch);
    const auto n = static_cast<double>(columns);
    std::vector<double> out(y.size()), gradient(y.size()), of_gamma(k.columns), of_beta(k.columns);
    k.for_rows([&](std::size_t at) {
      double centre = 0, spread = 0, plain = 0, along = 0;
      for (std::size_t c = 0; c < k.columns; ++c) centre += k.x[at + c] / n;
      for (std::size_t c = 0; c < k.columns; ++c) spread += std::pow(k.x[at + c] - centre, 2) / n;
      const double rstd = 1 / std::sqrt(spread + static_cast<double>(kEpsilon));
      for (std::size_t c = 0; c < k.columns; ++c) {
        const double z = (k.x[at + c] - centre) * rstd, g = k.dy[at + c];
        out[at + c] = z * gamma[c] + beta[c];
        of_gamma[c] += g * z;
        of_beta[c] += g;
        plain += g * gamma[c] / n;
        along += g * gamma[c] * z / n;
      }
      for (std::size_t c = 0; c < k.columns; ++c) {
        const double z = (k.x[at + c] - centre) * rstd, g = k.dy[at + c];
        gradient[at + c] = rstd * (g * gamma[c] - plain - z * along);
      }
    });
    expect_close(y, out, 1e-5, 1e-5, "y");
    expect_close(dx, gradient, 2e-5, 2e-5, "dx");
    expect_close(dgamma, of_gamma, 1e-5, 2e-5, "dgamma");
    expect_close(dbeta, of_beta, 1e-5, 2e-5, "dbeta");
  };
  for (const std::int64_t columns : kColumns) check(columns < 2000 ? 11 : 3, columns);
  for (const std::int64_t columns : {33, 132}) check(700, columns);  // chunks of rows
}

TEST(LargeRows, CrossEntropyAndCount) {
  Stream s;
  for (const std::int64_t columns : kColumns) {
    SCOPED_TRACE(columns);
    Row k(columns < 2000 ? 11 : 3, columns);
    std::vector<float> weight(k.rows, 0.5f), saved(2 * k.rows), dx(k.x.size());
    std::vector<std::int32_t> labels(k.rows);
    for (std::size_t r = 0; r < k.rows; ++r) {
      labels[r] = static_cast<std::int32_t>((r * 7919 + k.columns - 1) % k.columns);
    }
    weight[1] = 0;
    float loss = -1, dloss = 0.25f, right = -1;
    const Tensor w = view(weight, {k.shape[0]}), t = view(labels, {k.shape[0]}),
                 kept = view(saved, {k.shape[0], 2});
    kernels_under_test().softmax_cross_entropy(s, view(k.x, k.shape), t, w, kept,
                                               {.data = &loss, .shape = {}});
    kernels_under_test().softmax_cross_entropy_backward(
        s, view(k.x, k.shape), kept, t, w, {.data = &dloss, .shape = {}}, view(dx, k.shape));
    const std::vector<double> y = log_softmax(k);
    std::vector<double> gradient(y.size());
    double expected = 0;
    for (std::size_t r = 0; r < k.rows; ++r) {
      const std::size_t label = r * k.columns + static_cast<std::size_t>(labels[r]);
      expected -= weight[r] * y[label];
      for (std::size_t i = r * k.columns; i < (r + 1) * k.columns; ++i) {
        gradient[i] = 0.25 * weight[r] * (std::exp(y[i]) - (i == label ? 1 : 0));
      }
    }
    EXPECT_NEAR(loss, expected, 1.5e-7 * expected);
    expect_close(dx, gradient, 1e-6, 3e-8, "dlogits");

    // Row 0: the label is the first of two equal maxima; row 2: the second.
    for (std::size_t r = 0; r < k.rows; ++r) {
      const std::size_t last = k.columns - 1, at = r * k.columns;
      k.x[at + last / 2] = k.x[at + last] = 100;
      labels[r] = static_cast<std::int32_t>(r == 0 ? last / 2 : last);
    }
    kernels_under_test().count_correct(s, view(k.x, k.shape), t, w, {.data = &right, .shape = {}});
    EXPECT_EQ(right, 1.0f);
  }
}

// What is greater than a NaN in front is not looked for; one further back is passed over.
TEST(LargeRows, CountPassesOverNans) {
  Stream s;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::vector<float> x = {nan, 2, 1, 1, nan, 3, -1, -0.0f, 0.0f, -1, -2, nan}, weight(4, 1.0f);
  std::vector<std::int32_t> labels = {0, 2, 1, 0};
  float right = -1;
  kernels_under_test().count_correct(s, view(x, {4, 3}), view(labels, {4}), view(weight, {4}),
                                     {.data = &right, .shape = {}});
  EXPECT_EQ(right, 4.0f);
}

}  // namespace
}  // namespace peal::direct
