// A model is found again from the times that it makes, also among noise and outliers.
#include "launcher/fit_costs.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/base/random.h"

namespace peal {
namespace {

std::vector<CostSample> samples_of(const CostModel& model, bool inside, double noise) {
  const std::vector<Way> ways = inside ? std::vector{Way::mail, Way::slices}
                                       : std::vector{Way::small, Way::direct, Way::ring};
  const Spread spread = inside ? Spread{4, 1, 4, 4} : Spread{4, 4, 1, 1};
  const Random random({.seed = 7, .stream = 1});
  std::vector<CostSample> samples;
  for (double bytes = 64; bytes <= 1 << 22; bytes *= 2) {
    for (const Way way : ways) {
      const double off = static_cast<double>(random.u64(samples.size()) % 2001) / 1000 - 1;
      samples.push_back(
          {way, {bytes}, spread, seconds(model, way, {bytes}, spread) * (1 + noise * off)});
    }
  }
  return samples;
}

const CostModel kTrue = [] {
  CostModel model;
  model.set({8e-7, 2e-10, 7e-11, 5e-5, 4e-6, 8e-9});
  return model;
}();

TEST(FitCosts, ExactTimes) {
  const CostFit inside = fit_costs(samples_of(kTrue, true, 0), {}, 0, CostModel::kInside);
  EXPECT_NEAR(inside.model.inside.meeting / kTrue.inside.meeting, 1, 1e-3);
  EXPECT_NEAR(inside.model.inside.copied / kTrue.inside.copied, 1, 1e-3);
  EXPECT_NEAR(inside.model.inside.added / kTrue.inside.added, 1, 1e-3);
  EXPECT_LT(inside.largest_error, 1e-4);
  EXPECT_EQ(inside.model.between.step, BetweenCosts().step);  // was not to be fitted
  const CostFit between =
      fit_costs(samples_of(kTrue, false, 0), inside.model, CostModel::kInside, CostModel::kBetween);
  EXPECT_EQ(between.model.inside.meeting, inside.model.inside.meeting);
  EXPECT_NEAR(between.model.between.step / kTrue.between.step, 1, 1e-2);
  EXPECT_NEAR(between.model.between.sent / kTrue.between.sent, 1, 1e-2);
  EXPECT_LT(between.largest_error, 1e-3);
}

TEST(FitCosts, NoiseAndOutliers) {
  std::vector<CostSample> samples = samples_of(kTrue, false, 0.03);
  samples[4].seconds *= 5;  // something else had the machine
  samples[11].seconds *= 3;
  const CostFit fit = fit_costs(samples, {}, CostModel::kInside, CostModel::kBetween);
  EXPECT_NEAR(fit.model.between.step / kTrue.between.step, 1, 0.1);
  EXPECT_LT(fit.median_error, 0.03);
  EXPECT_GT(fit.largest_error, 0.5);
  CostModel lines = fit.model;
  lines.factors = CostModel().factors;
  for (const CostSample& clean : samples_of(kTrue, false, 0)) {
    EXPECT_NEAR(seconds(lines, clean.way, clean.load, clean.spread) / clean.seconds, 1, 0.08);
  }
}

// With its factors a model says what was measured, and leaves other ways as they were.
TEST(FitCosts, FactorsAreWhatTheLinesLeave) {
  std::vector<CostSample> samples = samples_of(kTrue, false, 0);
  for (CostSample& sample : samples) {
    if (sample.way == Way::direct && sample.load.bytes == 512 << 10) sample.seconds *= 3;
  }
  const CostFit fit = fit_costs(samples, kTrue, CostModel::kInside, CostModel::kBetween);
  for (const CostSample& sample : samples) {
    EXPECT_NEAR(seconds(fit.model, sample.way, sample.load, sample.spread) / sample.seconds, 1,
                0.02);
  }
  EXPECT_NEAR(fit.model.factor(Way::direct, 512 << 10), 3, 0.1);
  EXPECT_NEAR(fit.model.factor(Way::ring, 512 << 10), 1, 0.05);
  EXPECT_EQ(fit.model.factor(Way::hosts_ring, 512 << 10), 1);
}

// Steps that took longer now and then say nothing about a way: there the lines hold.
TEST(FitCosts, NoFactorsWhereWaitsAreMost) {
  std::vector<CostSample> samples = samples_of(kTrue, false, 0);
  for (CostSample& sample : samples) {
    if (sample.way == Way::direct && sample.load.bytes < 4096) sample.seconds /= 4;
  }
  const CostFit fit = fit_costs(samples, kTrue, CostModel::kInside, CostModel::kBetween);
  EXPECT_EQ(fit.model.factor(Way::direct, 512), 1);
  EXPECT_LT(seconds(fit.model, Way::small, {512}, samples[0].spread),
            seconds(fit.model, Way::direct, {512}, samples[0].spread));
}

// Times that no positive costs explain: none becomes negative.
TEST(FitCosts, NeverNegative) {
  std::vector<CostSample> samples = samples_of(kTrue, true, 0);
  for (CostSample& sample : samples) {
    if (sample.way == Way::slices) sample.seconds *= 0.01;
  }
  for (const double value : fit_costs(samples, {}, 0, CostModel::kInside).model.values()) {
    EXPECT_GE(value, 0);
    EXPECT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace peal
