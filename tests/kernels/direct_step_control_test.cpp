#include "tests/kernels/direct_support.h"

namespace peal::direct {
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
    const auto run = [&](std::vector<double>& values, const Tensor& by, double clip) {
      double norm = 0;
      float factor = 0;
      Stream s;
      kernels_under_test().clip(s, {.data = values.data(), .shape = {n}, .dtype = DType::f64}, by,
                                clip, {.data = &norm, .shape = {1}, .dtype = DType::f64},
                                {.data = &factor, .shape = {1}});
      return std::pair(norm, factor);
    };
    const auto straight = run(sums, {}, 0.25);
    EXPECT_NEAR(straight.first, std::sqrt(expected), 1e-13 * straight.first);
    EXPECT_EQ(straight.second, static_cast<float>(0.25 / (straight.first + 1e-6)));
    // 7919 is prime and n no multiple of it: each place once. The same bits.
    EXPECT_EQ(run(shuffled, {.data = order.data(), .shape = {n}, .dtype = DType::i64}, 0.25),
              straight);
  }
}

}  // namespace
}  // namespace peal::direct
