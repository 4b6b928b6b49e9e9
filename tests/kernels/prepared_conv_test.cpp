// conv2d, pool2d and reorder against plain loops in double, and their gradients against finite
// differences of those loops.
#include <gtest/gtest.h>

#include "tests/kernels/prepared_reference.h"

namespace peal {
namespace {

using reference::conv2d_dw;
using reference::conv2d_dx;
using reference::cpu_multiplies_bf16;
using reference::expect_close;
using reference::expect_near_largest;
using reference::from_layout;
using reference::gradient;
using reference::Owned;
using reference::random_values;
using reference::rounded_to_bf16;
using reference::to_layout;
using reference::Vector;
using reference::WeightGradient;

constexpr double kForward = 2e-6;
constexpr double kBackward = 5e-6;

// One of each, with names that a failure prints.
struct ConvCase {
  const char* name;
  Conv2dSpec spec;
};

std::ostream& operator<<(std::ostream& out, const ConvCase& c) {
  return out << c.name;
}

ConvCase conv_case(const char* name, Shape x, Shape w, std::int64_t stride, std::int64_t padding,
                   std::int64_t dilation, std::int64_t groups, bool bias, Activation activation) {
  Conv2dSpec spec;
  spec.x = x;
  spec.w = w;
  for (int i = 0; i < 2; ++i) {
    spec.stride[i] = stride;
    spec.padding[i] = padding;
    spec.dilation[i] = dilation;
  }
  spec.groups = groups;
  spec.bias = bias;
  spec.activation = activation;
  return {name, spec};
}

class Convolution : public testing::TestWithParam<ConvCase> {
 protected:
  Convolution()
      : x(random_values(spec.x, 1)),
        w(random_values(spec.w, 2)),
        b(random_values({spec.w[0]}, 3)),
        dy(random_values(spec.y(), 4)),
        conv(kernels_under_test().make_conv2d(spec)) {}

  Owned scratch() const { return Owned::bytes(conv->scratch_bytes()); }

  const Conv2dSpec spec = GetParam().spec;
  const Vector x, w, b, dy;
  const std::unique_ptr<Conv2d> conv;
  Stream s;
};

TEST_P(Convolution, Forward) {
  Owned y(spec.y(), conv->y_layout());
  const Owned pad = scratch();
  conv->forward(s, Owned::of(spec.x, x), Owned::of(spec.w, w), Owned::of({spec.w[0]}, b), y, pad);
  expect_close(from_layout(y), reference::conv2d(spec, x, w, b), kForward, "y");
  EXPECT_TRUE(y.guard_intact());
  EXPECT_TRUE(pad.guard_intact());
}

// The gradient before the activation: the reference is the convolution without one.
TEST_P(Convolution, Backward) {
  Conv2dSpec linear = spec;
  linear.activation = Activation::none;
  const Owned dy_in = to_layout(Owned::of(spec.y(), dy), conv->y_layout());
  const Owned pad = scratch();
  Owned dx(spec.x), dw(spec.w), db({spec.w[0]});
  conv->backward_data(s, dy_in, Owned::of(spec.w, w), dx, pad);
  conv->backward_weights(s, Owned::of(spec.x, x), dy_in, dw, spec.bias ? db.tensor() : Tensor{},
                         pad);
  const auto of_x = [&](const Vector& v) { return reference::conv2d(linear, v, w, b); };
  const auto of_w = [&](const Vector& v) { return reference::conv2d(linear, x, v, b); };
  const auto of_b = [&](const Vector& v) { return reference::conv2d(linear, x, w, v); };
  expect_close(dx.values(), gradient(of_x, x, dy), kBackward, "dx");
  expect_close(dw.values(), gradient(of_w, w, dy), kBackward, "dw");
  if (spec.bias) expect_close(db.values(), gradient(of_b, b, dy), kBackward, "db");
  EXPECT_TRUE(dx.guard_intact() && dw.guard_intact() && db.guard_intact() && pad.guard_intact());
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Convolution,
    testing::Values(
        conv_case("one channel", {2, 1, 9, 9}, {16, 1, 3, 3}, 1, 0, 1, 1, true, Activation::relu),
        conv_case("odd", {3, 3, 7, 5}, {5, 3, 3, 2}, 1, 1, 1, 1, true, Activation::none),
        conv_case("blocked", {1, 16, 3, 3}, {16, 16, 3, 3}, 1, 1, 1, 1, false, Activation::relu),
        conv_case("strided", {2, 4, 9, 8}, {6, 4, 3, 3}, 2, 1, 1, 1, true, Activation::none),
        conv_case("dilated", {1, 2, 9, 9}, {4, 2, 3, 3}, 1, 2, 2, 1, true, Activation::none),
        conv_case("strided and dilated", {1, 3, 11, 10}, {7, 3, 2, 3}, 3, 1, 2, 1, false,
                  Activation::relu),
        conv_case("groups", {2, 6, 6, 7}, {4, 3, 3, 3}, 1, 1, 1, 2, true, Activation::relu),
        conv_case("depthwise", {1, 16, 6, 6}, {16, 1, 3, 3}, 1, 1, 1, 16, true, Activation::none),
        conv_case("pointwise", {2, 17, 3, 3}, {19, 17, 1, 1}, 1, 0, 1, 1, true, Activation::none)),
    [](const auto& test) {
      std::string name = test.param.name;
      std::replace(name.begin(), name.end(), ' ', '_');
      return name;
    });

// Operands of a pass are rounded, dy too, and nothing else is.
void check_rounded(Conv2dSpec spec) {
  Conv2dSpec linear = spec;
  linear.activation = Activation::none;
  spec.precision = Precision::bf16;
  Stream s;
  const auto conv = kernels_under_test().make_conv2d(spec);
  const Vector x = random_values(spec.x, 1), w = random_values(spec.w, 2),
               b = random_values({spec.w[0]}, 3), dy = random_values(spec.y(), 4);
  const Vector x_r = rounded_to_bf16(x), w_r = rounded_to_bf16(w), dy_r = rounded_to_bf16(dy);
  const Owned pad = Owned::bytes(conv->scratch_bytes());
  Owned y(spec.y(), conv->y_layout()), dx(spec.x), dw(spec.w), db({spec.w[0]});
  conv->forward(s, Owned::of(spec.x, x), Owned::of(spec.w, w), Owned::of({spec.w[0]}, b), y, pad);
  expect_close(from_layout(y), reference::conv2d(spec, x_r, w_r, b), kForward, "y");
  const Owned dy_in = to_layout(Owned::of(spec.y(), dy), conv->y_layout());
  conv->backward_data(s, dy_in, Owned::of(spec.w, w), dx, pad);
  conv->backward_weights(s, Owned::of(spec.x, x), dy_in, dw, spec.bias ? db.tensor() : Tensor{},
                         pad);
  const auto of_x = [&](const Vector& v) { return reference::conv2d(linear, v, w_r, b); };
  const auto of_w = [&](const Vector& v) { return reference::conv2d(linear, x_r, v, b); };
  expect_close(dx.values(), gradient(of_x, x_r, dy_r), kBackward, "dx");
  expect_close(dw.values(), gradient(of_w, w_r, dy_r), kBackward, "dw");
  EXPECT_TRUE(y.guard_intact() && dx.guard_intact() && dw.guard_intact() && pad.guard_intact());
}

TEST(CpuRoundedConvolution, IsThatOfTheRoundedOperands) {
  if (!cpu_multiplies_bf16()) return;
  const Activation relu = Activation::relu, none = Activation::none;
  for (const ConvCase& c :
       {conv_case("blocked", {1, 16, 3, 3}, {16, 16, 3, 3}, 1, 1, 1, 1, false, relu),
        conv_case("strided", {1, 16, 5, 4}, {16, 16, 3, 3}, 2, 1, 1, 1, true, none),
        conv_case("pointwise", {2, 17, 3, 3}, {19, 17, 1, 1}, 1, 0, 1, 1, true, none)}) {
    SCOPED_TRACE(c.name);
    check_rounded(c.spec);
  }
}

// As a network's first layer has them: few taps, many positions, and no gradient of x.
class FirstLayer : public testing::TestWithParam<ConvCase> {};

TEST_P(FirstLayer, BackwardWeights) {
  Conv2dSpec spec = GetParam().spec;
  spec.needs_dx = false;
  const auto conv = kernels_under_test().make_conv2d(spec);
  const Vector x = random_values(spec.x, 1), dy = random_values(spec.y(), 2);
  const WeightGradient expected = conv2d_dw(spec, x, dy);
  const Owned dy_in = to_layout(Owned::of(spec.y(), dy), conv->y_layout());
  const Owned pad = Owned::bytes(conv->scratch_bytes());
  Owned dw(spec.w), db({spec.w[0]});
  Stream s;
  conv->backward_weights(s, Owned::of(spec.x, x), dy_in, dw, spec.bias ? db.tensor() : Tensor{},
                         pad);
  expect_near_largest(dw.values(), expected.dw, kBackward, "dw");
  if (spec.bias) expect_near_largest(db.values(), expected.db, kBackward, "db");
  EXPECT_TRUE(dw.guard_intact() && db.guard_intact() && pad.guard_intact());
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FirstLayer,
    testing::Values(
        conv_case("3x3", {5, 1, 28, 28}, {32, 1, 3, 3}, 1, 0, 1, 1, true, Activation::relu),
        conv_case("5x5", {3, 1, 14, 15}, {20, 1, 5, 5}, 1, 2, 1, 1, true, Activation::none),
        conv_case("colours", {2, 3, 16, 11}, {17, 3, 3, 3}, 1, 1, 1, 1, true, Activation::relu),
        conv_case("strided", {2, 2, 35, 20}, {6, 2, 3, 2}, 2, 1, 1, 1, false, Activation::none),
        conv_case("dilated", {2, 1, 16, 17}, {5, 1, 3, 3}, 1, 2, 3, 1, true, Activation::none),
        conv_case("wide", {1, 3, 9, 300}, {8, 3, 3, 3}, 1, 1, 1, 1, true, Activation::none),
        conv_case("many", {290, 1, 10, 10}, {3, 1, 3, 3}, 1, 0, 1, 1, true, Activation::none)),
    [](const auto& test) { return "of_" + std::string(test.param.name); });

// Where a backend may multiply in another way (Winograd's): all three passes by their definitions.
class ManyChannels : public testing::TestWithParam<ConvCase> {};

TEST_P(ManyChannels, AllPasses) {
  const Conv2dSpec spec = GetParam().spec;
  const auto conv = kernels_under_test().make_conv2d(spec);
  const Vector x = random_values(spec.x, 1), w = random_values(spec.w, 2);
  const Vector b = random_values({spec.w[0]}, 3), dy = random_values(spec.y(), 4);
  const Owned pad = Owned::bytes(conv->scratch_bytes()), w_in = Owned::of(spec.w, w);
  const Owned x_in = Owned::of(spec.x, x);
  const Owned dy_in = to_layout(Owned::of(spec.y(), dy), conv->y_layout());
  Owned y(spec.y(), conv->y_layout()), dx(spec.x), dw(spec.w), db({spec.w[0]});
  Stream s;
  conv->forward(s, x_in, w_in, Owned::of({spec.w[0]}, b), y, pad);
  conv->backward_data(s, dy_in, w_in, dx, pad);
  conv->backward_weights(s, x_in, dy_in, dw, spec.bias ? db.tensor() : Tensor{}, pad);
  expect_near_largest(from_layout(y), reference::conv2d(spec, x, w, b), kBackward, "y");
  expect_near_largest(dx.values(), conv2d_dx(spec, w, dy), kBackward, "dx");
  const WeightGradient expected = conv2d_dw(spec, x, dy);
  expect_near_largest(dw.values(), expected.dw, kBackward, "dw");
  if (spec.bias) expect_near_largest(db.values(), expected.db, kBackward, "db");
  EXPECT_TRUE(y.guard_intact() && dx.guard_intact() && dw.guard_intact() && pad.guard_intact());
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, ManyChannels,
    testing::Values(
        conv_case("padded", {2, 64, 9, 7}, {64, 64, 3, 3}, 1, 1, 1, 1, false, Activation::none),
        conv_case("relu", {1, 64, 8, 8}, {80, 64, 3, 3}, 1, 0, 1, 1, true, Activation::relu),
        conv_case("wider", {2, 96, 4, 4}, {128, 96, 3, 3}, 1, 1, 1, 1, false, Activation::none),
        conv_case("odd", {1, 67, 6, 5}, {71, 67, 3, 3}, 1, 1, 1, 1, true, Activation::none)),
    [](const auto& test) { return "of_" + std::string(test.param.name); });

// Two convolutions in a row, as a graph runs them: the second takes the first one's layout.
TEST(ConvolutionLayout, ChainedWithoutReorder) {
  Stream s;
  Conv2dSpec first =
      conv_case("", {1, 16, 6, 6}, {32, 16, 3, 3}, 1, 0, 1, 1, true, Activation::relu).spec;
  const auto conv1 = kernels_under_test().make_conv2d(first);
  Conv2dSpec second = first;
  second.x = first.y();
  second.w = {16, 32, 3, 3};
  second.x_layout = conv1->y_layout();
  const auto conv2 = kernels_under_test().make_conv2d(second);
  const Vector x = random_values(first.x, 1), w1 = random_values(first.w, 2),
               b1 = random_values({32}, 3), w2 = random_values(second.w, 4),
               b2 = random_values({16}, 5), dy = random_values(second.y(), 6);
  Owned y1(first.y(), conv1->y_layout()), y2(second.y(), conv2->y_layout());
  const Owned pad = Owned::bytes(std::max(conv1->scratch_bytes(), conv2->scratch_bytes()));
  conv1->forward(s, Owned::of(first.x, x), Owned::of(first.w, w1), Owned::of({32}, b1), y1, pad);
  conv2->forward(s, y1, Owned::of(second.w, w2), Owned::of({16}, b2), y2, pad);
  const Vector middle = reference::conv2d(first, x, w1, b1);
  expect_close(from_layout(y2), reference::conv2d(second, middle, w2, b2), 1e-5, "y");

  Owned dx(second.x, second.x_layout), dw(second.w), db({16});
  const Owned dy_in = to_layout(Owned::of(second.y(), dy), conv2->y_layout());
  conv2->backward_data(s, dy_in, Owned::of(second.w, w2), dx, pad);
  const auto of_x = [&](const Vector& v) {
    Conv2dSpec linear = second;
    linear.activation = Activation::none;
    return reference::conv2d(linear, v, w2, b2);
  };
  expect_close(from_layout(dx), gradient(of_x, middle, dy, 1e-3), 1e-5, "dx");
}

TEST(ConvolutionLayout, EqualOnesAreOneObject) {
  const auto spec =
      conv_case("", {2, 16, 8, 8}, {32, 16, 3, 3}, 1, 0, 1, 1, true, Activation::relu).spec;
  const auto one = kernels_under_test().make_conv2d(spec),
             other = kernels_under_test().make_conv2d(spec);
  EXPECT_EQ(one->y_layout(), other->y_layout());
}

TEST(Reordering, ThereAndBack) {
  const auto conv = kernels_under_test().make_conv2d(
      conv_case("", {2, 16, 8, 8}, {32, 16, 3, 3}, 1, 0, 1, 1, true, Activation::relu).spec);
  const Shape shape{2, 32, 6, 6};
  const Vector x = random_values(shape, 1);
  EXPECT_EQ(from_layout(to_layout(Owned::of(shape, x), conv->y_layout())), x);
  EXPECT_EQ(from_layout(to_layout(Owned::of(shape, x), nullptr)), x);
}

struct PoolCase {
  const char* name;
  Pool2dSpec spec;
};

std::ostream& operator<<(std::ostream& out, const PoolCase& c) {
  return out << c.name;
}

PoolCase pool_case(const char* name, PoolKind kind, Shape x, std::int64_t kernel,
                   std::int64_t stride, std::int64_t padding, bool include_padding = true) {
  Pool2dSpec spec;
  spec.kind = kind;
  spec.x = x;
  for (int i = 0; i < 2; ++i) {
    spec.kernel[i] = kernel;
    spec.stride[i] = stride;
    spec.padding[i] = padding;
  }
  spec.include_padding = include_padding;
  return {name, spec};
}

class Pooling : public testing::TestWithParam<PoolCase> {};

void check_pool(const Pool2dSpec& spec) {
  Stream s;
  const auto pool = kernels_under_test().make_pool2d(spec);
  const Vector x = random_values(spec.x, 7), dy = random_values(spec.y(), 8);
  const Owned x_in = to_layout(Owned::of(spec.x, x), spec.x_layout);
  const Owned dy_in = to_layout(Owned::of(spec.y(), dy), pool->y_layout());
  const Owned saved = Owned::bytes(pool->saved_bytes()), pad = Owned::bytes(pool->scratch_bytes());
  Owned y(spec.y(), pool->y_layout()), dx(spec.x, spec.x_layout);
  pool->forward(s, x_in, y, saved, pad);
  expect_close(from_layout(y), reference::pool2d(spec, x), kForward, "y");
  pool->backward(s, dy_in, saved, dx, pad);
  const auto f = [&](const Vector& v) { return reference::pool2d(spec, v); };
  expect_close(from_layout(dx), gradient(f, x, dy, 1e-7), kBackward, "dx");
  EXPECT_TRUE(y.guard_intact() && dx.guard_intact() && saved.guard_intact() && pad.guard_intact());
}

TEST_P(Pooling, ForwardAndBackward) {
  check_pool(GetParam().spec);
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, Pooling,
    testing::Values(pool_case("max", PoolKind::max, {2, 3, 6, 6}, 2, 2, 0),
                    pool_case("max_odd", PoolKind::max, {1, 5, 7, 9}, 2, 2, 0),
                    pool_case("max_wide", PoolKind::max, {3, 3, 7, 12}, 2, 2, 0),
                    pool_case("max_by_three", PoolKind::max, {1, 5, 8, 8}, 3, 3, 0),
                    pool_case("max_one_window", PoolKind::max, {2, 3, 7, 8}, 5, 3, 0),
                    pool_case("max_overlap", PoolKind::max, {2, 2, 8, 7}, 3, 2, 1),
                    pool_case("average", PoolKind::average, {2, 3, 6, 6}, 2, 2, 0),
                    pool_case("average_wide", PoolKind::average, {3, 3, 7, 12}, 2, 2, 0),
                    pool_case("average_by_three", PoolKind::average, {1, 5, 8, 8}, 3, 3, 0),
                    pool_case("average_padded", PoolKind::average, {1, 4, 7, 7}, 3, 2, 1),
                    pool_case("average_unpadded", PoolKind::average, {1, 4, 7, 7}, 3, 2, 1, false),
                    pool_case("average_global", PoolKind::average, {2, 17, 5, 5}, 5, 1, 0)),
    [](const auto& test) { return std::string(test.param.name); });

TEST(PoolingLayout, BlockedInBlockedOut) {
  const auto conv = kernels_under_test().make_conv2d(
      conv_case("", {2, 16, 8, 8}, {32, 16, 3, 3}, 1, 0, 1, 1, true, Activation::relu).spec);
  for (const PoolKind kind : {PoolKind::max, PoolKind::average}) {
    Pool2dSpec spec = pool_case("", kind, {2, 32, 6, 6}, 2, 2, 0).spec;
    spec.x_layout = conv->y_layout();
    check_pool(spec);
  }
}

TEST(PoolingTies, GradientGoesToTheFirstMaximum) {
  Stream s;
  const Pool2dSpec spec = pool_case("", PoolKind::max, {1, 1, 2, 4}, 2, 2, 0).spec;
  const auto pool = kernels_under_test().make_pool2d(spec);
  const Owned x = Owned::of(spec.x, {0, 3, 1, 1, 3, 3, 1, 1});
  const Owned saved = Owned::bytes(pool->saved_bytes()), pad = Owned::bytes(pool->scratch_bytes());
  Owned y(spec.y()), dx(spec.x);
  pool->forward(s, x, y, saved, pad);
  pool->backward(s, Owned::of(spec.y(), {5, 7}), saved, dx, pad);
  EXPECT_EQ(dx.values(), (Vector{0, 5, 7, 0, 0, 0, 0, 0}));
}

}  // namespace
}  // namespace peal
