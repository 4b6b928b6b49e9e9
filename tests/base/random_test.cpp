#include "core/base/random.h"

#include <gtest/gtest.h>

namespace peal {
namespace {

// The generator must never change: every saved job depends on it.
TEST(Random, IsAPureFunctionOfKeyAndIndex) {
  const Random a({.seed = 1, .step = 2, .stream = 3, .site = 4});
  const Random b({.seed = 1, .step = 2, .stream = 3, .site = 4});
  EXPECT_EQ(a.words(7), b.words(7));
  EXPECT_NE(a.words(7), a.words(8));
  EXPECT_NE(a.words(7), Random({.seed = 1, .step = 2, .stream = 3, .site = 5}).words(7));
}

TEST(Random, UniformFillsTheUnitInterval) {
  const Random random({.seed = 5});
  double sum = 0;
  for (int i = 0; i < 100000; ++i) {
    const float u = random.uniform(static_cast<std::uint64_t>(i));
    ASSERT_GE(u, 0.0f);
    ASSERT_LT(u, 1.0f);
    sum += u;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.004);  // four standard errors
}

TEST(Random, NormalHasUnitVariance) {
  const Random random({.seed = 6});
  double sum = 0, squares = 0;
  for (int i = 0; i < 100000; ++i) {
    const double x = random.normal(static_cast<std::uint64_t>(i));
    sum += x;
    squares += x * x;
  }
  EXPECT_NEAR(sum / 100000, 0, 0.013);
  EXPECT_NEAR(squares / 100000, 1, 0.018);
}

}  // namespace
}  // namespace peal
