#include "launcher/scaling_model.h"

#include <gtest/gtest.h>

namespace peal {
namespace {

// Alone: the first half of the gradients after 1 s, the rest after 2 s, the optimizer until 3 s.
const StepProfile kAlone{{{100, 1.0}, {200, 2.0}}, 3.0};

TEST(ScalingModel, HidesSumsBesideBackwardAndOptimizer) {
  const std::vector<BucketSum> buckets{{100, 0.5}, {200, 0.5}};
  const StepForecast step = forecast(kAlone, buckets, /*overlapped=*/true, /*taken=*/0);
  EXPECT_DOUBLE_EQ(step.seconds, 3.0);  // the second sum ends as the first half is updated
  EXPECT_DOUBLE_EQ(step.sums, 1.0);
  EXPECT_DOUBLE_EQ(step.exposed, 0.0);
}

TEST(ScalingModel, SumsAfterBackwardAreExposed) {
  const std::vector<BucketSum> buckets{{100, 0.5}, {200, 0.5}};
  const StepForecast step = forecast(kAlone, buckets, /*overlapped=*/false, /*taken=*/0);
  EXPECT_DOUBLE_EQ(step.seconds, 2.0 + 0.5 + 0.5 + 0.5);
  EXPECT_DOUBLE_EQ(step.exposed, 0.5);
}

TEST(ScalingModel, ALinkThatIsBusyHoldsTheNextBucketUp) {
  const std::vector<BucketSum> buckets{{100, 4.0}, {200, 1.0}};
  const StepForecast step = forecast(kAlone, buckets, /*overlapped=*/true, /*taken=*/0);
  EXPECT_DOUBLE_EQ(step.seconds, 1.0 + 4.0 + 1.0 + 0.5);
  // Buckets need not end where gradients do: this one waits for the second.
  const std::vector<BucketSum> other{{150, 4.0}, {200, 1.0}};
  EXPECT_DOUBLE_EQ(forecast(kAlone, other, true, 0).seconds, 2.0 + 4.0 + 1.0 + 3.0 / 12);
}

TEST(ScalingModel, SumsThatNeedTheCoresSlowBackwardDown) {
  const std::vector<BucketSum> buckets{{100, 0.5}, {200, 0.5}};
  const StepForecast step = forecast(kAlone, buckets, /*overlapped=*/true, /*taken=*/0.5);
  // In 0.5 s of the first sum a quarter of a second's work is lost.
  EXPECT_DOUBLE_EQ(step.seconds, 2.25 + 0.5 + 0.5);
}

TEST(ScalingModel, SumsThatWaitForCoresGoOnFasterAfterBackward) {
  // Half of the first sum is done beside the second half of backward, the rest in half the time.
  const std::vector<BucketSum> buckets{{100, 1.0, 2.0}, {200, 0.5, 5.0}};
  const StepForecast step = forecast(kAlone, buckets, /*overlapped=*/true, /*taken=*/0);
  EXPECT_DOUBLE_EQ(step.seconds, 2.0 + 0.5 + 0.5 + 0.5);
  EXPECT_DOUBLE_EQ(step.sums, 1.5);
  // Beside a backward that it slows down it gets further.
  EXPECT_DOUBLE_EQ(forecast(kAlone, buckets, true, 0.5).seconds, 3.0 + 0.5 + 0.5);
}

TEST(ScalingModel, CoresToSpareCostNothing) {
  EXPECT_DOUBLE_EQ(speed_taken({.cores = 2, .threads = 1, .sums = 0.5}), 0);
  EXPECT_DOUBLE_EQ(speed_taken({.cores = 2, .threads = 2, .sums = 0.5}), 0.25);
  EXPECT_DOUBLE_EQ(speed_taken({.cores = 2, .threads = 4, .sums = 0.5}), 0.25);
  EXPECT_DOUBLE_EQ(speed_taken({.cores = 2, .threads = 4, .sums = 9}), 0.95);
}

TEST(ScalingModel, FitsWhatWasMeasured) {
  const MeasuredSum small{64 << 10, 1.1e-3}, large{2 << 20, 20e-3};
  for (const Spread& spread : {Spread{2, 2, 1, 1}, Spread{4, 2, 2, 2}, Spread{2, 1, 2, 2}}) {
    for (const bool tree : {false, true}) {
      SCOPED_TRACE(testing::Message() << spread.ranks << " ranks, " << spread.hosts << " hosts");
      const CostModel model = fit_link(small, large, spread, tree);
      for (const MeasuredSum& sum : {small, large}) {
        EXPECT_NEAR(seconds_of_sum(model, {sum.bytes, 1}, spread, tree), sum.seconds,
                    1e-3 * sum.seconds);
      }
    }
  }
}

TEST(ScalingModel, OneRankSumsNothing) {
  EXPECT_EQ(seconds_of_sum(CostModel(), {1e9, 1}, Spread{1, 1, 1, 1}, /*tree=*/true), 0);
}

// Twice the hosts send 2 (n - 1) / n of the bytes: 1.5 times those of two.
TEST(ScalingModel, GrowsByTheCostLines) {
  CostModel model;
  model.between = {0, 0, 1e-8};
  model.inside.added = 0;
  const Load load{1e6, 1};
  EXPECT_NEAR(seconds_of_sum(model, load, {2, 2, 1, 1}, true), 10e-3, 1e-9);
  EXPECT_NEAR(seconds_of_sum(model, load, {4, 4, 1, 1}, true), 15e-3, 1e-9);
}

}  // namespace
}  // namespace peal
