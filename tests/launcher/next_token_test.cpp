#include "launcher/next_token.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <set>

#include "core/base/error.h"

namespace peal {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::vector<float> kScores = {1.0f, 3.0f, -2.0f, 3.0f, 0.5f, 2.0f};

std::vector<std::int32_t> draws(const DrawOptions& options, std::span<const float> scores, int n) {
  NextToken next(options);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < n; ++i) tokens.push_back(next.draw(scores, static_cast<std::uint64_t>(i)));
  return tokens;
}

std::set<std::int32_t> seen(const DrawOptions& options) {
  const std::vector<std::int32_t> tokens = draws(options, kScores, 4000);
  return {tokens.begin(), tokens.end()};
}

TEST(NextToken, TheHighestScoreWithoutTemperatureOrChoice) {
  EXPECT_THAT(draws({.temperature = 0}, kScores, 3), ElementsAre(1, 1, 1));
  EXPECT_THAT(draws({.top_k = 1}, kScores, 3), ElementsAre(1, 1, 1));
  EXPECT_THAT(draws({.top_p = 1e-9}, kScores, 3), ElementsAre(1, 1, 1));
  EXPECT_THAT(draws({.temperature = 1e-300}, std::vector<float>{1, 2, 1}, 3), ElementsAre(1, 1, 1));
}

TEST(NextToken, TheSameSeedDrawsTheSame) {
  const std::vector<std::int32_t> first = draws({.seed = 7}, kScores, 200);
  EXPECT_EQ(draws({.seed = 7}, kScores, 200), first);
  EXPECT_NE(draws({.seed = 8}, kScores, 200), first);
  // Only the place counts, not what was drawn before.
  NextToken next({.seed = 7});
  EXPECT_EQ(next.draw(kScores, 150), first[150]);
}

// 0.01 is 4 deviations of a share of one half among 40,000.
TEST(NextToken, SharesFollowTheScores) {
  for (const double temperature : {0.5, 1.0, 3.0}) {
    double all = 0;
    for (const float score : kScores) all += std::exp(score / temperature);
    std::map<std::int32_t, int> counts;
    for (const std::int32_t token : draws({.temperature = temperature}, kScores, 40000)) {
      ++counts[token];
    }
    for (std::size_t i = 0; i < kScores.size(); ++i) {
      EXPECT_NEAR(counts[static_cast<std::int32_t>(i)] / 40000.0,
                  std::exp(kScores[i] / temperature) / all, 0.01)
          << "token " << i << " at " << temperature;
    }
  }
}

TEST(NextToken, TopKKeepsTheHighest) {
  EXPECT_THAT(seen({.top_k = 2}), ElementsAre(1, 3));
  EXPECT_THAT(seen({.top_k = 3}), ElementsAre(1, 3, 5));
  EXPECT_THAT(seen({.temperature = 5, .top_k = 100}), ElementsAre(0, 1, 2, 3, 4, 5));
}

// At temperature 1 the shares are 0.386, 0.386, 0.142, 0.052, 0.032 of tokens 1, 3, 5, 0, 4.
TEST(NextToken, TopPKeepsTheFewestThatAreEnough) {
  EXPECT_THAT(seen({.top_p = 0.38}), ElementsAre(1));
  EXPECT_THAT(seen({.top_p = 0.4}), ElementsAre(1, 3));
  EXPECT_THAT(seen({.top_p = 0.77}), ElementsAre(1, 3));
  EXPECT_THAT(seen({.top_p = 0.78}), ElementsAre(1, 3, 5));
  EXPECT_THAT(seen({.top_p = 0.95}), ElementsAre(0, 1, 3, 5));
  // Of what top_k left: 0.5 and 0.5.
  EXPECT_THAT(seen({.top_k = 2, .top_p = 0.45}), ElementsAre(1));
  EXPECT_THAT(seen({.top_k = 2, .top_p = 0.55}), ElementsAre(1, 3));
}

// All of them are put into order in another way than some: of equal scores (zeros of both signs
// are) the smaller id stands first in both.
TEST(NextToken, AllAreInTheOrderOfTheHighest) {
  std::vector<float> scores = {0.0f, -0.0f, 0.0f, 1e-40f, -1e-40f, 2.5f, -700, 2.5f};
  for (int i = 0; i < 4000; ++i)
    scores.push_back(static_cast<float>((i * 7919) % 1024 - 512) / (i % 2 != 0 ? 64.0f : 3.0f));
  scores.push_back(-1e5f);  // the one that is left out: of a share that no sum shows
  const auto some = static_cast<std::int64_t>(scores.size()) - 1;
  for (const double temperature : {1.0, 30.0, 90.0}) {
    for (const double top_p : {1.0, 0.7}) {
      const auto all = draws({.temperature = temperature, .top_p = top_p}, scores, 200);
      EXPECT_EQ(all,
                draws({.temperature = temperature, .top_k = some, .top_p = top_p}, scores, 200));
      const std::set<std::int32_t> different(all.begin(), all.end());
      EXPECT_GT(different.size(), temperature > 1 ? 50u : 1u);
    }
  }
}

std::string error_of(const DrawOptions& options, std::vector<float> scores, ErrorKind kind) {
  try {
    NextToken(options).draw(scores, 5);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "no error";
}

TEST(NextToken, WhatIsWrongIsNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double wrong : {-1.0, nan, std::numeric_limits<double>::infinity()}) {
    EXPECT_THAT(error_of({.temperature = wrong}, kScores, ErrorKind::input),
                HasSubstr("--temperature"));
  }
  EXPECT_THAT(error_of({.top_k = -1}, kScores, ErrorKind::input), HasSubstr("--top-k: -1"));
  for (const double wrong : {0.0, 1.5, nan}) {
    EXPECT_THAT(error_of({.top_p = wrong}, kScores, ErrorKind::input), HasSubstr("--top-p"));
  }
  EXPECT_THAT(error_of({}, {1, std::nanf("")}, ErrorKind::numeric), HasSubstr("token 5: "));
}

}  // namespace
}  // namespace peal
