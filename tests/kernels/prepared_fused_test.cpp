// The CPU's ConvReluPool against plain loops in double, and against the separate kernels.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/kernels/prepared_reference.h"

namespace peal {
namespace {

using reference::expect_close;
using reference::gradient;
using reference::Owned;
using reference::random_values;
using reference::Vector;

struct FusedCase {
  const char* name;
  Shape x;
  std::int64_t filters, kernel, padding;
  bool bias;
};

std::ostream& operator<<(std::ostream& out, const FusedCase& c) {
  return out << c.name;
}

struct Specs {
  explicit Specs(const FusedCase& c) {
    conv.x = c.x;
    conv.w = {c.filters, c.x[1], c.kernel, c.kernel};
    conv.padding[0] = conv.padding[1] = c.padding;
    conv.bias = c.bias;
    conv.activation = Activation::relu;
    conv.needs_dx = false;
    pool.x = conv.y();
  }
  Conv2dSpec conv;
  Pool2dSpec pool;
};

// What the separate kernels make of it.
struct Parts {
  Parts(const Specs& specs, const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& dy)
      : y(specs.pool.y()), dw(specs.conv.w), db({specs.conv.w[0]}) {
    Stream s;
    const auto conv = kernels(kCpu).make_conv2d(specs.conv);
    Pool2dSpec pool_spec = specs.pool;
    const auto pool = kernels(kCpu).make_pool2d(pool_spec);
    Owned z(specs.pool.x, conv->y_layout()), dz(specs.pool.x);
    const Owned saved = Owned::bytes(pool->saved_bytes()),
                pad = Owned::bytes(std::max(conv->scratch_bytes(), pool->scratch_bytes()));
    conv->forward(s, x, w, b, z, pad);
    const Vector z_values = reference::from_layout(z, kernels(kCpu));
    pool->forward(s, Owned::of(specs.pool.x, z_values), y, saved, pad);
    pool->backward(s, dy, saved, dz, pad);
    Vector dz_values = dz.values();
    for (std::size_t i = 0; i < dz_values.size(); ++i) dz_values[i] *= z_values[i] > 0 ? 1 : 0;
    const Owned dz_in =
        reference::to_layout(Owned::of(specs.pool.x, dz_values), conv->y_layout(), kernels(kCpu));
    conv->backward_weights(s, x, dz_in, dw, specs.conv.bias ? db.tensor() : Tensor{}, pad);
  }
  Owned y, dw, db;
};

class CpuFused : public testing::TestWithParam<FusedCase> {
 protected:
  void SetUp() override {
    fused = kernels(kCpu).make_conv_relu_pool(specs.conv, specs.pool);
    // Without AVX2 there is no fused form, which is what the contract then asks for.
    ASSERT_EQ(fused != nullptr, reference::cpu_has_avx2());
  }

  const Specs specs{GetParam()};
  const Vector x = random_values(specs.conv.x, 1), w = random_values(specs.conv.w, 2),
               b = random_values({specs.conv.w[0]}, 3), dy = random_values(specs.pool.y(), 4);
  std::unique_ptr<ConvReluPool> fused;
  Stream s;
};

TEST_P(CpuFused, EqualsDoubleReferenceAndParts) {
  if (fused == nullptr) return;
  const Owned x_in = Owned::of(specs.conv.x, x), w_in = Owned::of(specs.conv.w, w),
              b_in = Owned::of({specs.conv.w[0]}, b), dy_in = Owned::of(specs.pool.y(), dy),
              saved = Owned::bytes(fused->saved_bytes()),
              pad = Owned::bytes(fused->scratch_bytes());
  const Tensor bias = specs.conv.bias ? b_in.tensor() : Tensor{};
  Owned y(specs.pool.y()), dw(specs.conv.w), db({specs.conv.w[0]});
  fused->forward(s, x_in, w_in, bias, y, saved, pad);
  const auto f = [&](const Vector& w_, const Vector& b_) {
    return reference::pool2d(specs.pool, reference::conv2d(specs.conv, x, w_, b_));
  };
  expect_close(y.values(), f(w, b), 2e-6, "y");

  fused->backward(s, x_in, w_in, y, dy_in, saved, {}, dw, specs.conv.bias ? db.tensor() : Tensor{},
                  pad);
  const auto of_w = [&](const Vector& v) { return f(v, b); };
  const auto of_b = [&](const Vector& v) { return f(w, v); };
  expect_close(dw.values(), gradient(of_w, w, dy, 1e-8), 1e-5, "dw");
  if (specs.conv.bias) expect_close(db.values(), gradient(of_b, b, dy, 1e-8), 1e-5, "db");

  const Parts parts(specs, x_in, w_in, bias, dy_in);
  expect_close(y.values(), parts.y.values(), 1e-6, "y of the parts");
  expect_close(dw.values(), parts.dw.values(), 1e-5, "dw of the parts");
  if (specs.conv.bias) expect_close(db.values(), parts.db.values(), 1e-5, "db of the parts");
  EXPECT_TRUE(y.guard_intact() && dw.guard_intact() && db.guard_intact() && saved.guard_intact() &&
              pad.guard_intact());
}

TEST_P(CpuFused, InferenceGivesTheSameBits) {
  if (fused == nullptr) return;
  Specs inference = specs;
  inference.conv.training = inference.pool.training = false;
  const auto other = kernels(kCpu).make_conv_relu_pool(inference.conv, inference.pool);
  ASSERT_NE(other, nullptr);
  EXPECT_EQ(other->saved_bytes(), 0u);
  const Owned x_in = Owned::of(specs.conv.x, x), w_in = Owned::of(specs.conv.w, w),
              b_in = Owned::of({specs.conv.w[0]}, b), saved = Owned::bytes(fused->saved_bytes());
  const Tensor bias = specs.conv.bias ? b_in.tensor() : Tensor{};
  Owned y(specs.pool.y()), z(specs.pool.y());
  fused->forward(s, x_in, w_in, bias, y, saved, Owned::bytes(fused->scratch_bytes()));
  other->forward(s, x_in, w_in, bias, z, {}, Owned::bytes(other->scratch_bytes()));
  EXPECT_EQ(y.bits(), z.bits());
}

INSTANTIATE_TEST_SUITE_P(Shapes, CpuFused,
                         testing::Values(FusedCase{"reference_cnn", {1, 1, 28, 28}, 8, 3, 0, true},
                                         FusedCase{"odd_filters", {3, 1, 11, 9}, 5, 3, 0, true},
                                         FusedCase{"odd_output", {2, 1, 9, 10}, 4, 3, 0, true},
                                         FusedCase{"padded", {2, 1, 8, 8}, 3, 3, 1, false},
                                         FusedCase{"channels", {2, 3, 10, 12}, 4, 3, 1, true},
                                         FusedCase{"kernel_5", {2, 1, 12, 12}, 6, 5, 0, true},
                                         FusedCase{
                                             "kernel_5_channels", {1, 2, 9, 13}, 3, 5, 2, true},
                                         FusedCase{"wide", {1, 1, 6, 70}, 2, 3, 1, true},
                                         FusedCase{"one_window", {1, 1, 4, 4}, 1, 3, 0, true}),
                         [](const auto& test) { return std::string(test.param.name); });

// Equal outputs in a window: the first keeps the gradient; relu's zeros keep none.
TEST(CpuFusedTies, FirstMaximumAndNoGradientThroughRelu) {
  const Specs specs(FusedCase{"", {1, 1, 4, 6}, 1, 3, 0, true});
  const auto fused = kernels(kCpu).make_conv_relu_pool(specs.conv, specs.pool);
  if (fused == nullptr) return;
  Stream s;
  // The kernel picks its top left input, so that window 0 sees ones, window 1 negative values.
  const Owned x = Owned::of(specs.conv.x, {1, 1, -1, -1, 9, 9, 1, 1, -1, -1, 9,  9,
                                           2, 3, 4,  5,  6, 7, 8, 9, 10, 11, 12, 13}),
              w = Owned::of(specs.conv.w, {1, 0, 0, 0, 0, 0, 0, 0, 0}), b = Owned::of({1}, {0}),
              saved = Owned::bytes(fused->saved_bytes()),
              pad = Owned::bytes(fused->scratch_bytes());
  Owned y(specs.pool.y()), dw(specs.conv.w), db({1});
  fused->forward(s, x, w, b, y, saved, pad);
  EXPECT_EQ(y.values(), (Vector{1, 0}));
  fused->backward(s, x, w, y, Owned::of(specs.pool.y(), {1, 100}), saved, {}, dw, db, pad);
  EXPECT_EQ(db.values(), (Vector{1}));
  EXPECT_EQ(dw.values(), (Vector{1, 1, -1, 1, 1, -1, 2, 3, 4}));
}

TEST(CpuFusedLimits, OtherShapesAreRefused) {
  const auto refused = [](const std::function<void(Specs&)>& change) {
    Specs specs(FusedCase{"", {2, 2, 12, 12}, 4, 3, 0, true});
    change(specs);
    specs.pool.x = specs.conv.y();
    return kernels(kCpu).make_conv_relu_pool(specs.conv, specs.pool) == nullptr;
  };
  EXPECT_TRUE(refused([](Specs& s) { s.conv.needs_dx = true; }));
  EXPECT_TRUE(refused([](Specs& s) { s.conv.stride[1] = 2; }));
  EXPECT_TRUE(refused([](Specs& s) { s.conv.dilation[0] = 2; }));
  EXPECT_TRUE(refused([](Specs& s) { s.conv.groups = 2, s.conv.w[1] = 1; }));
  EXPECT_TRUE(refused([](Specs& s) { s.conv.activation = Activation::none; }));
  EXPECT_TRUE(refused([](Specs& s) { s.conv.w[3] = 5; }));
  EXPECT_TRUE(refused([](Specs& s) { s.conv.w[2] = s.conv.w[3] = 7; }));
  EXPECT_TRUE(refused([](Specs& s) { s.pool.kind = PoolKind::average; }));
  EXPECT_TRUE(refused([](Specs& s) { s.pool.kernel[0] = 3; }));
  EXPECT_TRUE(refused([](Specs& s) { s.pool.stride[0] = 1; }));
  EXPECT_TRUE(refused([](Specs& s) { s.pool.padding[0] = 1; }));
}

}  // namespace
}  // namespace peal
