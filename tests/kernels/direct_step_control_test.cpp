#include "tests/kernels/direct_support.h"

namespace peal::direct::direct_step_control_test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Guarded {
  float go;
  std::vector<float> cleared;
};

Guarded guard(std::vector<float> x, float go, std::vector<float> cleared) {
  Stream s;
  kernels_under_test().guard(s, view(x, {static_cast<std::int64_t>(x.size())}),
                             {.data = &go, .shape = {1}},
                             view(cleared, {static_cast<std::int64_t>(cleared.size())}));
  return {go, cleared};
}

TEST(DirectGuard, ClosesAtTheFirstValueThatIsNotFiniteAndStaysClosed) {
  for (const std::size_t n : {1u, 31u, 1024u, 5000u}) {
    const std::vector<float> x = normals(n, n), kept = normals(2000, 3);
    const std::vector<float> zeros(kept.size(), 0.0f);
    Guarded result = guard(x, 1, kept);
    EXPECT_EQ(result.go, 1);
    EXPECT_EQ(result.cleared, kept);
    result = guard(x, 0, kept);
    EXPECT_EQ(result.go, 0);
    EXPECT_EQ(result.cleared, zeros);
    for (const float bad : {kNan, kInfinity, -kInfinity}) {
      for (const std::size_t at : {std::size_t{0}, n / 2, n - 1}) {
        std::vector<float> y = x;
        y[at] = bad;
        result = guard(y, 1, kept);
        EXPECT_EQ(result.go, 0) << bad << " at " << at << " of " << n;
        EXPECT_EQ(result.cleared, zeros);
      }
    }
  }
}

TEST(DirectGuard, MayClearWhatItLooksAt) {
  Stream s;
  float go = 1;
  std::vector<float> slots(300, 2.0f);
  slots[16] = kNan;
  kernels_under_test().guard(s, {.data = slots.data() + 16, .shape = {1}},
                             {.data = &go, .shape = {1}}, view(slots, {300}));
  EXPECT_EQ(go, 0);
  EXPECT_EQ(slots, std::vector<float>(300, 0.0f));
}

TEST(DirectClip, AddsInTheOrderGiven) {
  for (const std::int64_t n : {1, 7, 1024, 30000}) {
    std::vector<double> sums(static_cast<std::size_t>(n)), shuffled(sums.size());
    std::vector<std::int64_t> order(sums.size());
    double expected = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
      sums[i] = 1.0 / static_cast<double>(i + 1);
      expected += sums[i];
      order[i] = static_cast<std::int64_t>((i * 7919 + 3) % sums.size());
      shuffled[static_cast<std::size_t>(order[i])] = sums[i];
    }
    const auto run = [&](std::vector<double>& values, const Tensor& by, double clip,
                         bool scaled = false) {
      float scale = 1024;
      double norm = 0;
      float factor = 0;
      Stream s;
      kernels_under_test().clip(s, {.data = values.data(), .shape = {n}, .dtype = DType::f64}, by,
                                clip, scaled ? Tensor{.data = &scale, .shape = {1}} : Tensor{},
                                {.data = &norm, .shape = {1}, .dtype = DType::f64},
                                {.data = &factor, .shape = {1}});
      return std::pair(norm, factor);
    };
    const auto straight = run(sums, {}, 0.25);
    EXPECT_NEAR(straight.first, std::sqrt(expected), 1e-13 * straight.first);
    EXPECT_EQ(straight.second, static_cast<float>(0.25 / (straight.first + 1e-6)));
    // 7919 is prime and n no multiple of it: each place once. The same bits.
    EXPECT_EQ(run(shuffled, {.data = order.data(), .shape = {n}, .dtype = DType::i64}, 0.25),
              straight);
    // By powers of two: the same bits.
    std::vector<double> larger = sums;
    for (double& value : larger) value *= 1024.0 * 1024.0;
    EXPECT_EQ(run(larger, {}, 0.25, true), std::pair(straight.first, straight.second / 1024));
    EXPECT_EQ(run(larger, {}, 0, true).second, 1.0f / 1024);
  }
}

TEST(DirectLossScale, HalvesAtOnceAndDoublesAfterGoodSteps) {
  struct {
    float open = 1, go = 5;
    float scaling[3] = {4, 0, 0};
  } at;
  const auto step = [&](double norm) {
    Stream s;
    kernels_under_test().adapt_scale(s, {.data = &norm, .shape = {1}, .dtype = DType::f64},
                                     /*every=*/3, {.data = &at.open, .shape = {1}},
                                     {.data = &at.go, .shape = {1}},
                                     {.data = at.scaling, .shape = {3}});
    return std::vector<float>{at.open, at.go, at.scaling[0], at.scaling[1], at.scaling[2]};
  };
  using Row = std::vector<float>;  // open, go, scale, good, used
  EXPECT_EQ(step(1), (Row{1, 1, 4, 1, 4}));
  EXPECT_EQ(step(0), (Row{1, 1, 4, 2, 4}));
  EXPECT_EQ(step(kInfinity), (Row{1, 0, 2, 0, 4}));
  EXPECT_EQ(step(1e300), (Row{1, 1, 2, 1, 2}));
  EXPECT_EQ(step(7), (Row{1, 1, 2, 2, 2}));
  EXPECT_EQ(step(7), (Row{1, 1, 4, 0, 2}));
  EXPECT_EQ(step(kNan), (Row{1, 0, 2, 0, 4}));
  EXPECT_EQ(step(kNan), (Row{1, 0, 1, 0, 2}));
  EXPECT_EQ(step(1), (Row{1, 1, 1, 1, 1}));
  EXPECT_EQ(step(kNan), (Row{0, 0, 0.5f, 0, 1})) << "the smallest: nothing goes on";
  EXPECT_EQ(step(1), (Row{0, 0, 0.5f, 0, 1}));
  at.open = 1;
  at.scaling[0] = 0x1p24f;
  at.scaling[1] = 2;
  EXPECT_EQ(step(1), (Row{1, 1, 0x1p24f, 0, 0x1p24f})) << "the largest";
}

}  // namespace
}  // namespace peal::direct::direct_step_control_test
