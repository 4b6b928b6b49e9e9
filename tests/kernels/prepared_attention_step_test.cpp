// Attention of one position over a cache against a plain loop in double over the whole text.
#include <gtest/gtest.h>

#include <limits>

#include "tests/kernels/prepared_reference.h"

namespace peal {
namespace {

using reference::expect_close;
using reference::Owned;
using reference::random_values;
using reference::Vector;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// A cache of NaNs, which nothing may read before it is written, and what goes on with it.
class Text {
 public:
  explicit Text(const AttentionStepSpec& spec)
      : spec_(spec),
        kernel_(kernels_under_test().make_attention_step(spec)),
        pad_(Owned::bytes(kernel_->scratch_bytes())),
        cache_(Owned::of(spec.cache(),
                         Vector(static_cast<std::size_t>(spec.cache().numel()), kNan))) {}

  // qkv (B, 3*C) of position t -> y (B, C)
  Vector next(const Vector& qkv, std::int64_t t) {
    Stream s;
    const Owned x = Owned::of({spec_.batch, 3 * spec_.width}, qkv), place({1});
    Tensor position = place;
    position.dtype = DType::i32;
    *position.as<std::int32_t>() = static_cast<std::int32_t>(t);
    Owned y({spec_.batch, spec_.width});
    kernel_->run(s, x, position, cache_, y, pad_);
    EXPECT_TRUE(y.guard_intact() && cache_.guard_intact() && pad_.guard_intact() &&
                place.guard_intact());
    return y.values();
  }

  // Key and value of position t, as they stand in qkv: (B, 2*C)
  Vector kept(std::int64_t t) const {
    const Vector all = cache_.values();
    const std::int64_t depth = spec_.width / spec_.heads;
    Vector row;
    for (std::int64_t part = 0; part < spec_.batch * 2 * spec_.heads; ++part) {
      const auto from = all.begin() + (part * spec_.context + t) * depth;
      row.insert(row.end(), from, from + depth);
    }
    return row;
  }

 private:
  AttentionStepSpec spec_;
  std::unique_ptr<AttentionStep> kernel_;
  Owned pad_, cache_;
};

// Of (B, T, columns) row t, columns begin..end: (B, end - begin).
Vector row_of(const Vector& x, std::int64_t batch, std::int64_t time, std::int64_t t,
              std::int64_t begin, std::int64_t end) {
  const std::int64_t columns = static_cast<std::int64_t>(x.size()) / (batch * time);
  Vector row;
  for (std::int64_t b = 0; b < batch; ++b) {
    const auto from = x.begin() + (b * time + t) * columns;
    row.insert(row.end(), from + begin, from + end);
  }
  return row;
}

class AttentionSteps : public testing::TestWithParam<AttentionStepSpec> {};

TEST_P(AttentionSteps, AreTheRowsOfAttention) {
  const auto [batch, time, heads, width] = GetParam();
  Vector qkv = random_values({batch, time, 3 * width}, 1);
  for (double& v : qkv) v *= 4;  // so that some probabilities are near 1
  const Vector y =
      reference::attention({.batch = batch, .time = time, .heads = heads, .width = width}, qkv);
  Text text(GetParam());
  for (std::int64_t t = 0; t < time; ++t) {
    SCOPED_TRACE(t);
    expect_close(text.next(row_of(qkv, batch, time, t, 0, 3 * width), t),
                 row_of(y, batch, time, t, 0, width), 5e-6, "y");
    EXPECT_EQ(text.kept(t), row_of(qkv, batch, time, t, width, 3 * width));
    if (t + 1 < time) {
      for (const double v : text.kept(t + 1)) EXPECT_TRUE(v != v);
    }
  }
}

// One head of one column; parts of the rows that kernels have at a time; records and heads side by
// side; heads wider than a block's columns.
INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionSteps,
    testing::Values(AttentionStepSpec{1, 1, 1, 1}, AttentionStepSpec{1, 5, 1, 1},
                    AttentionStepSpec{2, 9, 3, 12}, AttentionStepSpec{1, 130, 2, 6},
                    AttentionStepSpec{3, 66, 2, 128}, AttentionStepSpec{1, 64, 1, 200}));

// A position may be taken again with what else stands there, and nothing behind it is read.
TEST(AttentionStep, MayGoBack) {
  const AttentionStepSpec spec{.batch = 1, .context = 8, .heads = 2, .width = 4};
  const auto row = [](std::int64_t t) { return random_values({1, 12}, std::uint64_t(t)); };
  Text straight(spec), back(spec);
  for (std::int64_t t = 0; t < 8; ++t) back.next(row(100 + t), t);
  for (std::int64_t t = 0; t < 8; ++t) EXPECT_EQ(back.next(row(t), t), straight.next(row(t), t));
}

TEST(AttentionStep, LargeScoresStayFinite) {
  Text text({.batch = 1, .context = 2, .heads = 1, .width = 1});
  EXPECT_EQ(text.next({100, 100, 1}, 0), Vector{1});
  EXPECT_EQ(text.next({100, -100, 3}, 1), Vector{1});
}

}  // namespace
}  // namespace peal
