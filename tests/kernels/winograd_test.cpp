// Winograd's algorithm of the CPU backend, on any CPU that has the instructions: also where
// oneDNN's own comes first.
#include "core/kernels/cpu/winograd.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "core/base/error.h"
#include "tests/kernels/prepared_reference.h"

namespace peal {
namespace {

using reference::cpu_has_avx2;
using reference::expect_near_largest;
using reference::from_layout;
using reference::Owned;
using reference::random_values;
using reference::to_layout;
using reference::Vector;

constexpr double kTolerance = 5e-6;

Conv2dSpec spec_of(Shape x, std::int64_t filters, std::int64_t padding) {
  Conv2dSpec spec;
  spec.x = x;
  spec.w = {filters, x[1], 3, 3};
  spec.padding[0] = spec.padding[1] = padding;
  return spec;
}

// The layout of its own y, which has blocks of channels.
const Layout* blocks_of(Shape x) {
  return cpu::make_winograd(spec_of({x[0], 64, x[2], x[3]}, x[1], 1))->y_layout();
}

struct Passes {
  explicit Passes(const Conv2dSpec& conv_spec)
      : spec(conv_spec),
        x(random_values(spec.x, 1)),
        w(random_values(spec.w, 2)),
        b(random_values({spec.w[0]}, 3)),
        dy(random_values(spec.y(), 4)),
        conv(cpu::make_winograd(spec)),
        y(spec.y(), conv->y_layout()),
        dx(spec.x, spec.x_layout),
        dw(spec.w),
        db({spec.w[0]}) {
    run();
  }

  void run() {
    Kernels& cpu = kernels(kCpu);
    const Owned pad = Owned::bytes(conv->scratch_bytes()), w_in = Owned::of(spec.w, w);
    const Owned x_in = to_layout(Owned::of(spec.x, x), spec.x_layout, cpu);
    const Owned dy_in = to_layout(Owned::of(spec.y(), dy), conv->y_layout(), cpu);
    Stream s;
    conv->forward(s, x_in, w_in, Owned::of({spec.w[0]}, b), y, pad);
    conv->backward_data(s, dy_in, w_in, dx, pad);
    conv->backward_weights(s, x_in, dy_in, dw, db, pad);
    EXPECT_TRUE(pad.guard_intact() && y.guard_intact() && dx.guard_intact() && dw.guard_intact() &&
                db.guard_intact());
  }

  Conv2dSpec spec;
  Vector x, w, b, dy;
  std::unique_ptr<Conv2d> conv;
  Owned y, dx, dw, db;
};

void check(const Conv2dSpec& spec) {
  Kernels& cpu = kernels(kCpu);
  const Passes p(spec);
  expect_near_largest(from_layout(p.y, cpu), reference::conv2d(spec, p.x, p.w, p.b), kTolerance,
                      "y");
  expect_near_largest(from_layout(p.dx, cpu), reference::conv2d_dx(spec, p.w, p.dy), kTolerance,
                      "dx");
  const reference::WeightGradient expected = reference::conv2d_dw(spec, p.x, p.dy);
  expect_near_largest(p.dw.values(), expected.dw, kTolerance, "dw");
  if (spec.bias) expect_near_largest(p.db.values(), expected.db, kTolerance, "db");
}

// Edges on all sides, tiles of several records and shares of tiles, more channels than a product
// takes at a time, x in blocks and row by row.
TEST(CpuWinograd, IsTheConvolution) {
  if (!cpu_has_avx2()) return;
  for (Conv2dSpec spec : {spec_of({2, 64, 9, 7}, 64, 1), spec_of({3, 64, 6, 11}, 80, 0),
                          spec_of({1, 64, 33, 29}, 64, 1), spec_of({2, 272, 4, 4}, 64, 1),
                          spec_of({2, 64, 5, 4}, 304, 1)}) {
    for (const bool blocks : {true, false}) {
      SCOPED_TRACE(
          cat("height ", spec.x[2], ", channels ", spec.x[1], blocks ? ", in blocks" : ""));
      spec.x_layout = blocks ? blocks_of(spec.x) : nullptr;
      check(spec);
    }
  }
}

TEST(CpuWinograd, AddsBiasAndActs) {
  if (!cpu_has_avx2()) return;
  Conv2dSpec spec = spec_of({2, 64, 6, 10}, 96, 1);
  spec.bias = true;
  check(spec);
  spec.activation = Activation::relu;
  const Passes p(spec);
  const Vector y = from_layout(p.y, kernels(kCpu));
  expect_near_largest(y, reference::conv2d(spec, p.x, p.w, p.b), kTolerance, "y");
  EXPECT_GT(std::count(y.begin(), y.end(), 0.0), spec.y().numel() / 4);
}

// y and dx of a record are the same bits alone and among others, whatever share its tiles are in.
TEST(CpuWinograd, BitsOfARecordAreItsOwn) {
  if (!cpu_has_avx2()) return;
  const Conv2dSpec many = spec_of({9, 64, 14, 14}, 64, 1), one = spec_of({1, 64, 14, 14}, 64, 1);
  const Passes all(many), again(many);
  EXPECT_EQ(all.dw.bits(), again.dw.bits());
  Passes single(one);
  for (std::int64_t n = 0; n < many.x[0]; ++n) {
    const auto record = [&](const Vector& values, const Shape& shape) {
      const auto begin = values.begin() + n * shape.numel();
      return Vector(begin, begin + shape.numel());
    };
    single.x = record(all.x, one.x);
    single.dy = record(all.dy, one.y());
    single.run();
    Kernels& cpu = kernels(kCpu);
    EXPECT_EQ(from_layout(single.y, cpu), record(from_layout(all.y, cpu), one.y())) << n;
    EXPECT_EQ(from_layout(single.dx, cpu), record(from_layout(all.dx, cpu), one.x)) << n;
  }
}

TEST(CpuWinograd, IsLeftWhereItDoesNotSuit) {
  const Conv2dSpec suits = spec_of({2, 64, 8, 8}, 64, 1);
  EXPECT_EQ(cpu::make_winograd(suits) != nullptr, cpu_has_avx2());
  const auto refused = [&](auto change) {
    Conv2dSpec spec = suits;
    change(spec);
    return cpu::make_winograd(spec) == nullptr;
  };
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.stride[1] = 2; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.dilation[0] = 2; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.padding[0] = 2; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.w = {64, 64, 3, 5}; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.w = {48, 64, 3, 3}; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.w = {72, 64, 3, 3}; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.w = {64, 32, 3, 3}, s.groups = 2; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.x = {2, 64, 3, 8}; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.x = {0, 64, 8, 8}; }));
  EXPECT_TRUE(refused([](Conv2dSpec& s) { s.stored = DType::bf16; }));
}

// Networks get it: by the bits of what the backend makes.
TEST(CpuWinograd, IsWhatConvolutionsTakeWithoutAvx512) {
  if (!onednn_instructions().starts_with("avx2")) return;
  const Passes p(spec_of({2, 64, 8, 8}, 64, 1));
  const auto conv = kernels(kCpu).make_conv2d(p.spec);
  const Owned pad = Owned::bytes(conv->scratch_bytes());
  const Owned y(p.spec.y(), conv->y_layout());
  Stream s;
  conv->forward(s, Owned::of(p.spec.x, p.x), Owned::of(p.spec.w, p.w), {}, y, pad);
  EXPECT_EQ(y.bits(), p.y.bits());
}

}  // namespace
}  // namespace peal
