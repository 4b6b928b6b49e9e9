// Attention against a plain loop in double, its gradient against finite differences of that loop.
#include <gtest/gtest.h>

#include "tests/kernels/prepared_reference.h"

namespace peal {
namespace {

using reference::expect_close;
using reference::Owned;
using reference::random_values;
using reference::Vector;

class Attentions : public testing::TestWithParam<AttentionSpec> {
 protected:
  const AttentionSpec spec = GetParam();
  const Shape in{spec.batch, spec.time, 3 * spec.width}, out{spec.batch, spec.time, spec.width};
  const Shape rows{spec.batch, spec.heads, spec.time};
  Stream s;
};

// Four times what random_values gives, so that some probabilities are near 1.
Vector wide_values(const Shape& shape, std::uint64_t seed) {
  Vector x = random_values(shape, seed);
  for (double& v : x) v *= 4;
  return x;
}

TEST_P(Attentions, ForwardAndBackward) {
  const auto kernel = kernels_under_test().make_attention(spec);
  const Vector qkv = wide_values(in, 1), dy = random_values(out, 2);
  const Owned x = Owned::of(in, qkv), pad = Owned::bytes(kernel->scratch_bytes());
  Owned y(out), log_sums(rows), dqkv(in);
  kernel->forward(s, x, y, log_sums, pad);
  const auto f = [&](const Vector& v) { return reference::attention(spec, v); };
  expect_close(y.values(), f(qkv), 5e-6, "y");
  kernel->backward(s, x, y, log_sums, Owned::of(out, dy), dqkv, pad);
  expect_close(dqkv.values(), reference::gradient(f, qkv, dy), 2e-5, "dqkv");
  EXPECT_TRUE(y.guard_intact() && log_sums.guard_intact() && dqkv.guard_intact() &&
              pad.guard_intact());
}

// One head of one column; a context that is no multiple of a block's rows; heads side by side.
INSTANTIATE_TEST_SUITE_P(Shapes, Attentions,
                         testing::Values(AttentionSpec{1, 1, 1, 1}, AttentionSpec{1, 5, 1, 1},
                                         AttentionSpec{2, 9, 3, 12}, AttentionSpec{1, 67, 2, 6},
                                         AttentionSpec{1, 33, 1, 40}));

// Long contexts, of which finite differences would take too long: a record is not changed by what
// comes after it, and blocks of queries give what shorter contexts give.
TEST(LongAttention, IsThatOfAShorterContextAtItsHead) {
  constexpr std::int64_t kLong = 300, kShort = 150, kWidth = 128;
  const AttentionSpec spec{.batch = 1, .time = kLong, .heads = 1, .width = kWidth},
      head{.batch = 1, .time = kShort, .heads = 1, .width = kWidth};
  const Vector qkv = random_values({1, kLong, 3 * kWidth}, 1);
  Vector dy = random_values({1, kLong, kWidth}, 2);
  std::fill(dy.begin() + kShort * kWidth, dy.end(), 0.0);  // the loss looks at the head alone
  const auto run = [](const AttentionSpec& of, const Vector& x, const Vector& g) {
    Stream s;
    const auto kernel = kernels_under_test().make_attention(of);
    const Shape in{1, of.time, 3 * kWidth}, out{1, of.time, kWidth};
    const auto first = [](const Vector& v, std::int64_t n) {
      return Vector(v.begin(), v.begin() + n);
    };
    const Owned from = Owned::of(in, first(x, in.numel())),
                pad = Owned::bytes(kernel->scratch_bytes());
    Owned y(out), log_sums({1, 1, of.time}), dx(in);
    kernel->forward(s, from, y, log_sums, pad);
    kernel->backward(s, from, y, log_sums, Owned::of(out, first(g, out.numel())), dx, pad);
    return std::pair{first(y.values(), kShort * kWidth), first(dx.values(), kShort * 3 * kWidth)};
  };
  const auto [y, dx] = run(spec, qkv, dy);
  const auto [y_head, dx_head] = run(head, qkv, dy);
  expect_close(y, y_head, 5e-7, "y");
  expect_close(dx, dx_head, 1e-6, "dqkv");
  expect_close(y,
               reference::attention(head, Vector(qkv.begin(), qkv.begin() + kShort * 3 * kWidth)),
               5e-7, "y of the formula");
}

TEST(LongAttention, LargeScoresStayFinite) {
  Stream s;
  const AttentionSpec spec{.batch = 1, .time = 2, .heads = 1, .width = 1};
  const auto kernel = kernels_under_test().make_attention(spec);
  const Shape in{1, 2, 3}, out{1, 2, 1};
  const Owned qkv = Owned::of(in, {100, 100, 1, 100, -100, 3}),
              pad = Owned::bytes(kernel->scratch_bytes());
  Owned y(out), log_sums({1, 1, 2}), dqkv(in);
  kernel->forward(s, qkv, y, log_sums, pad);
  EXPECT_EQ(y.values(), (Vector{1, 1}));
  EXPECT_EQ(log_sums.values(), (Vector{10000, 10000}));
  kernel->backward(s, qkv, y, log_sums, Owned::of(out, {1, 1}), dqkv, pad);
  EXPECT_EQ(dqkv.values(), (Vector{0, 0, 2, 0, 0, 0}));
}

}  // namespace
}  // namespace peal
