#include <array>
#include <limits>
#include <numbers>

#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

constexpr float kSlope = 0.1f;
constexpr std::array kKinds = {Activation::none,     Activation::relu,    Activation::leaky_relu,
                               Activation::gelu,     Activation::sigmoid, Activation::tanh,
                               Activation::gelu_tanh};

double reference(Activation kind, double x) {
  switch (kind) {
    case Activation::none:
      return x;
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::leaky_relu:
      return x > 0 ? x : static_cast<double>(kSlope) * x;
    case Activation::gelu:
      return x * 0.5 * std::erfc(-x / std::numbers::sqrt2);
    case Activation::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Activation::tanh:
      return std::tanh(x);
    case Activation::gelu_tanh:
      return 0.5 * x *
             (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
  }
  return 0;
}

double reference_slope(Activation kind, double x) {
  const double step = 1e-5;
  return (reference(kind, x + step) - reference(kind, x - step)) / (2 * step);
}

std::vector<float> activate(Activation kind, std::vector<float> x) {
  std::vector<float> y(x.size());
  const Shape shape{static_cast<std::int64_t>(x.size())};
  Stream s;
  kernels_under_test().activation(s, kind, kSlope, view(x, shape), view(y, shape));
  return y;
}

// Every 4001st float from 0 to 100, with both signs: all magnitudes, down to subnormal ones.
std::vector<float> all_magnitudes() {
  std::vector<float> x;
  for (std::uint32_t bits = 0; bits <= std::bit_cast<std::uint32_t>(100.0f); bits += 4001) {
    x.push_back(std::bit_cast<float>(bits));
    x.push_back(-x.back());
  }
  return x;
}

TEST(DirectActivation, IsWithinHalfAnUlp) {
  const std::vector<float> x = all_magnitudes();
  for (const auto kind : kKinds) {
    if (kind == Activation::gelu_tanh) continue;  // computed in f32
    std::vector<double> expected(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) expected[i] = reference(kind, x[i]);
    // 2^-24 is half an ulp at worst; 1.5e-45 is the smallest f32, for subnormal results.
    expect_close(activate(kind, x), expected, 0x1p-24 * 1.02, 1.5e-45,
                 "kind " + std::to_string(static_cast<int>(kind)));
  }
}

// A rounding of e's exponent, 2u, is one of e as many times as large. In double the reference's
// 1 + tanh cancels far out: there the limit is an absolute one.
TEST(DirectActivation, GeluByTanhIsWithinAFewUlps) {
  const std::vector<float> x = all_magnitudes();
  std::vector<double> expected(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) expected[i] = reference(Activation::gelu_tanh, x[i]);
  expect_close(activate(Activation::gelu_tanh, x), expected, 3e-7, 2e-8, "gelu_tanh");
}

TEST(DirectActivation, HandlesTheExtremes) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> x = {inf, -inf, 3e38f, -3e38f};
  EXPECT_EQ(activate(Activation::sigmoid, x), (std::vector<float>{1, 0, 1, 0}));
  EXPECT_EQ(activate(Activation::tanh, x), (std::vector<float>{1, -1, 1, -1}));
  EXPECT_EQ(activate(Activation::relu, x), (std::vector<float>{inf, 0, 3e38f, 0}));
  EXPECT_EQ(activate(Activation::gelu, {3e38f, -3e38f}), (std::vector<float>{3e38f, 0}));
  EXPECT_EQ(activate(Activation::gelu_tanh, {3e38f, -3e38f}), (std::vector<float>{3e38f, 0}));
  for (const auto kind : kKinds) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (const float y : activate(kind, std::vector<float>(37, nan))) EXPECT_TRUE(std::isnan(y));
  }
}

TEST(DirectActivation, BackwardFollowsFiniteDifferences) {
  Stream s;
  const Shape shape{7, 143};
  std::vector<float> x = normals(count(shape), 1, 3);
  std::vector<float> dy = normals(count(shape), 2);
  for (const auto kind : kKinds) {
    std::vector<float> y = activate(kind, x);
    std::vector<float> dx(x.size());
    const bool reads_x = backward_reads_x(kind);
    kernels_under_test().activation_backward(s, kind, kSlope, reads_x ? view(x, shape) : Tensor{},
                                             reads_x ? Tensor{} : view(y, shape), view(dy, shape),
                                             view(dx, shape));
    std::vector<double> expected(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) expected[i] = dy[i] * reference_slope(kind, x[i]);
    // y in f32 loses 2^-24 of 1 - y.
    expect_close(dx, expected, 2e-7, 4e-7, "kind " + std::to_string(static_cast<int>(kind)));
  }
}

TEST(DirectActivation, BackwardWorksInPlace) {
  Stream s;
  const Shape shape{1001};
  std::vector<float> x = normals(count(shape), 1, 3);
  for (const auto kind : kKinds) {
    std::vector<float> y = activate(kind, x), dy = normals(count(shape), 2), dx(x.size());
    kernels_under_test().activation_backward(s, kind, kSlope, view(x, shape), view(y, shape),
                                             view(dy, shape), view(dx, shape));
    kernels_under_test().activation_backward(s, kind, kSlope, view(x, shape), view(y, shape),
                                             view(dy, shape), view(dy, shape));
    EXPECT_EQ(dx, dy);
  }
}

TEST(DirectActivation, BitsDoNotDependOnAlignmentOrPlace) {
  Stream s;
  for (const auto kind : kKinds) {
    const std::vector<float> x = normals(1000, 3, 4);
    const std::vector<float> whole = activate(kind, x);
    std::vector<float> in_place = x;
    kernels_under_test().activation(s, kind, kSlope, view(in_place, {1000}),
                                    view(in_place, {1000}));
    EXPECT_EQ(in_place, whole);
    for (const std::size_t first : {1u, 3u, 7u, 990u}) {
      const std::vector<float> part = activate(kind, {x.begin() + first, x.end()});
      EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + first));
    }
  }
}

TEST(DirectPointwise, ScaleAndAccumulate) {
  Stream s;
  for (const std::int64_t n : {1, 5, 16, 1003}) {
    std::vector<float> x = normals(static_cast<std::size_t>(n), 4);
    std::vector<float> y = normals(x.size(), 5), sum = y, scaled(x.size());
    kernels_under_test().accumulate(s, view(x, {n}), view(sum, {n}));
    kernels_under_test().scale(s, -1.5f, view(x, {n}), view(scaled, {n}));
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(sum[i], x[i] + y[i]);
      EXPECT_EQ(scaled[i], -1.5f * x[i]);
    }
    kernels_under_test().scale(s, -1.5f, view(x, {n}), view(x, {n}));
    EXPECT_EQ(x, scaled);
  }
}

TEST(DirectPointwise, FillAndCopy) {
  Stream s;
  std::vector<float> x(1001, 1.0f), y(1001);
  kernels_under_test().fill(s, {.data = x.data() + 1, .shape = {999}}, 2.5f);
  EXPECT_EQ(x[0], 1.0f);
  EXPECT_EQ(x[1000], 1.0f);
  EXPECT_EQ(std::count(x.begin(), x.end(), 2.5f), 999);
  kernels_under_test().copy(s, view(x, {7, 143}), view(y, {7, 143}));
  EXPECT_EQ(x, y);
  std::vector<std::int64_t> from = {1, -2, 3}, to(3);
  kernels_under_test().copy(s, {.data = from.data(), .shape = {3}, .dtype = DType::i64},
                            {.data = to.data(), .shape = {3}, .dtype = DType::i64});
  EXPECT_EQ(from, to);
}

struct BinaryCase {
  Shape x, y, z;
};

const std::vector<BinaryCase>& binary_cases() {
  static const std::vector<BinaryCase> cases = {
      {{1001}, {1001}, {1001}},
      {{3, 5, 7}, {3, 5, 7}, {3, 5, 7}},
      {{6, 33}, {33}, {6, 33}},
      {{33}, {6, 33}, {6, 33}},
      {{6, 33}, {6, 1}, {6, 33}},
      {{6, 1}, {1, 33}, {6, 33}},
      {{2, 3, 5, 7}, {1, 3, 1, 1}, {2, 3, 5, 7}},
      {{2, 3, 5, 7}, {3, 1, 1}, {2, 3, 5, 7}},
      {{2, 1, 5, 1}, {3, 1, 7}, {2, 3, 5, 7}},
      {{4, 5}, {}, {4, 5}},
      {{1}, {4, 5}, {4, 5}},
      {{}, {}, {}},
      {{1, 1}, {1}, {1, 1}},
      {{2, 1, 3, 1, 2, 5}, {2, 4, 1, 3, 2, 1}, {2, 4, 3, 3, 2, 5}},
  };
  return cases;
}

float apply(BinaryOp op, float a, float b) {
  return op == BinaryOp::add ? a + b : op == BinaryOp::sub ? a - b : a * b;
}

TEST(DirectBinary, BroadcastsAsNumPyDoes) {
  Stream s;
  for (const auto& shapes : binary_cases()) {
    std::vector<float> x = normals(count(shapes.x), 6), y = normals(count(shapes.y), 7);
    for (const auto op : {BinaryOp::add, BinaryOp::sub, BinaryOp::mul}) {
      std::vector<float> z(count(shapes.z)), expected(z.size());
      kernels_under_test().binary(s, op, view(x, shapes.x), view(y, shapes.y), view(z, shapes.z));
      for (std::size_t i = 0; i < z.size(); ++i) {
        const auto index = index_of(static_cast<std::int64_t>(i), shapes.z);
        expected[i] = apply(op, x[offset_of(index, shapes.x)], y[offset_of(index, shapes.y)]);
      }
      EXPECT_EQ(z, expected) << shapes.x << " op " << shapes.y;
      if (shapes.x == shapes.z) {
        std::vector<float> place = x;
        kernels_under_test().binary(s, op, view(place, shapes.z), view(y, shapes.y),
                                    view(place, shapes.z));
        EXPECT_EQ(place, expected) << "in place, " << shapes.x << " op " << shapes.y;
      }
    }
  }
}

TEST(DirectBroadcast, RepeatsAndScales) {
  Stream s;
  const std::vector<std::pair<Shape, Shape>> cases = {
      {{1, 33}, {6, 33}}, {{6, 1}, {6, 33}},           {{2, 1, 5, 1}, {2, 3, 5, 7}},
      {{1, 1}, {4, 5}},   {{2, 3, 5}, {2, 3, 5}},      {{1}, {1}},
      {{}, {}},           {{1, 3, 1, 1}, {2, 3, 4, 5}}};
  for (const auto& [from, to] : cases) {
    std::vector<float> x = normals(count(from), 8), y(count(to)), expected(y.size());
    kernels_under_test().broadcast(s, view(x, from), 0.3f, view(y, to));
    for (std::size_t i = 0; i < y.size(); ++i) {
      expected[i] = 0.3f * x[offset_of(index_of(static_cast<std::int64_t>(i), to), from)];
    }
    EXPECT_EQ(y, expected) << from << " to " << to;
  }
}

}  // namespace
}  // namespace peal::direct
