#include "launcher/restart_policy.h"

#include <gtest/gtest.h>

#include "core/base/error.h"
#include "launcher/newest_state.h"
#include "launcher/rank_line.h"
#include "launcher/rank_times.h"

namespace peal {
namespace {

TEST(RankRange, ReadsAndRefuses) {
  EXPECT_EQ(parse_rank_range("2:8").least, 2);
  EXPECT_EQ(parse_rank_range("2:8").most, 8);
  for (const char* wrong : {"", "2", "2:", ":8", "0:8", "8:2", "a:b", "2:8:9", "2:8 ", "-1:3"}) {
    EXPECT_THROW(parse_rank_range(wrong), Error) << wrong;
  }
}

TEST(PlaceRanks, TakesHostsInOrderUpToTheMost) {
  const std::vector<HostSlots> hosts = {{"a", 2}, {"b", 3}, {"c", 2}};
  EXPECT_EQ(host_list(place_ranks(hosts, 4)), "a:2,b:2");
  EXPECT_EQ(host_list(place_ranks(hosts, 100)), "a:2,b:3,c:2");
  EXPECT_EQ(host_list(place_ranks(hosts, 2)), "a:2");
  EXPECT_EQ(rank_count(place_ranks(hosts, 6)), 6);
  EXPECT_TRUE(place_ranks({}, 4).empty());
}

TEST(RestartBudget, NewStepsFillItAgain) {
  RestartBudget budget(3);
  std::vector<double> pauses;
  for (int k = 0; k < 3; ++k) {
    EXPECT_TRUE(budget.spend(10));
    pauses.push_back(budget.pause());
  }
  EXPECT_EQ(pauses, (std::vector<double>{0, 1, 2}));
  EXPECT_TRUE(budget.spend(11));
  EXPECT_EQ(budget.pause(), 0);
  EXPECT_TRUE(budget.spend(11));
  EXPECT_TRUE(budget.spend(5));  // a start that came less far is no progress
  EXPECT_FALSE(budget.spend(11));
  RestartBudget none(0);
  EXPECT_FALSE(none.spend(0));
}

TEST(RestartBudget, PausesEndAtAMinute) {
  RestartBudget budget(20);
  for (int k = 0; k < 20; ++k) budget.spend(0);
  EXPECT_EQ(budget.pause(), 60);
}

TEST(HostFaults, TwiceInTimeLeavesOut) {
  HostFaults faults(100);
  EXPECT_FALSE(faults.count("a", 0, "x"));
  EXPECT_FALSE(faults.count("b", 10, "x"));
  EXPECT_FALSE(faults.count("a", 150, "x"));  // the first is forgiven
  EXPECT_TRUE(faults.count("a", 200, "its connection broke"));
  EXPECT_TRUE(faults.is_left_out("a"));
  EXPECT_FALSE(faults.is_left_out("b"));
  EXPECT_EQ(faults.left_out(), (std::vector<std::string>{"a: failed twice, its connection broke"}));
  faults.forgive("a");
  EXPECT_FALSE(faults.is_left_out("a"));
  EXPECT_FALSE(faults.count("a", 201, "x"));
}

// Ranks on hosts a, b, c with one slot each, and on d with two.
std::vector<HostEnds> ends(std::vector<std::vector<int>> codes) {
  std::vector<HostEnds> list;
  for (std::size_t h = 0; h < codes.size(); ++h) {
    list.push_back({{std::string(1, static_cast<char>('a' + h)), h == 3 ? 2 : 1}, codes[h]});
  }
  return list;
}

TEST(HostAtFault, IsTheOneThatEndedFirstOrThatTheOthersMiss) {
  constexpr int kKilled = RankLines::kNoWord;
  EXPECT_EQ(host_at_fault(ends({{}, {kKilled}, {}})), "b");
  EXPECT_EQ(host_at_fault(ends({{3}, {}, {kKilled}})), "c");  // whatever else was said
  EXPECT_EQ(host_at_fault(ends({{1}, {3}, {3}})), "a");       // an error of its own
  EXPECT_EQ(host_at_fault(ends({{3}, {3}, {}})), "c");        // frozen, or cut off
  EXPECT_EQ(host_at_fault(ends({{3}, {3}, {3}, {3}})), "d");  // one of its two
}

TEST(HostAtFault, IsNobodyWhereItCouldBeSeveral) {
  constexpr int kKilled = RankLines::kNoWord;
  EXPECT_EQ(host_at_fault(ends({{}, {}, {}})), std::nullopt);
  EXPECT_EQ(host_at_fault(ends({{kKilled}, {kKilled}, {}})), std::nullopt);
  EXPECT_EQ(host_at_fault(ends({{3}, {}, {}})), std::nullopt);
  EXPECT_EQ(host_at_fault(ends({{3}, {3}, {3}})), std::nullopt);  // a network for a moment
  EXPECT_EQ(host_at_fault(ends({{1}, {1}, {1}})), std::nullopt);
}

TEST(Stragglers, TheSlowestAgainstTheMedianOfTheOthers) {
  const auto slow = [](std::vector<double> compute) { return find_straggler(compute); };
  EXPECT_FALSE(slow({5}));
  EXPECT_FALSE(slow({1, 1.49, 1}));
  const auto found = slow({1, 1.1, 4, 0.9});
  ASSERT_TRUE(found);
  EXPECT_EQ(found->rank, 2);
  EXPECT_DOUBLE_EQ(found->factor, 4);
  // Two of five are slow: they share a host.
  EXPECT_TRUE(slow({1, 1, 1, 4, 4}));
  EXPECT_EQ(slow({1, 3})->rank, 1);
  EXPECT_FALSE(slow({0, 0}));
}

// Windows of ten steps of so many seconds in which this rank of three takes twice the others' time.
void add_windows(StragglerRule& rule, std::vector<int> slow_ranks, double step = 0.1) {
  for (const int slow : slow_ranks) {
    std::vector<RankTimes> ranks(3, {.compute = 0.4 * step, .step = step, .save = 0});
    if (slow >= 0) ranks[static_cast<std::size_t>(slow)].compute *= 2;
    rule.add(ranks, 10);
  }
}

TEST(StragglerRule, NamesTheSameRankInThreeSpans) {
  StragglerRule rule;
  add_windows(rule, {1, 1, 2, 1, 1});
  EXPECT_FALSE(rule.straggler());
  add_windows(rule, {1});
  ASSERT_TRUE(rule.straggler());
  EXPECT_EQ(rule.straggler()->rank, 1);
  EXPECT_DOUBLE_EQ(rule.straggler()->factor, 2);
  add_windows(rule, {-1, -1, 1, -1, 2});
  EXPECT_TRUE(rule.straggler());
  add_windows(rule, {-1});
  EXPECT_FALSE(rule.straggler());
  add_windows(rule, {2, 2, 2});
  EXPECT_EQ(rule.straggler()->rank, 2);
}

// Each of three ranks waits for a core in turn: nobody is slow.
TEST(StragglerRule, ShortStepsAreJudgedOverAQuarterOfASecond) {
  StragglerRule rule;
  for (int k = 0; k < 100; ++k) {
    add_windows(rule, {0, 0, 0, 1, 1, 1, 2, 2, 2}, 0.004);
    ASSERT_FALSE(rule.straggler()) << k;
  }
  // 7 windows of 0.04 s are a span; one is begun.
  for (int k = 0; k < 28 && !rule.straggler(); ++k) add_windows(rule, {1}, 0.004);
  ASSERT_TRUE(rule.straggler());
  EXPECT_EQ(rule.straggler()->rank, 1);
}

TEST(Stragglers, RanksExchangeWhatTheyTake) {
  run_local_ranks(3, [](Communicator& comm) {
    TimesExchange times(comm);
    int named_at = -1, fresh = 0;
    for (int step = 1; step <= 80; ++step) {
      const bool slow = comm.rank() == 1 && step <= 40;
      fresh += times.add(slow ? 4.0 : 1.0, step % 10 == 5 ? 50.0 : 5.0, 0.5) ? 1 : 0;
      if (named_at < 0 && times.straggler()) named_at = step;
      if (fresh > 0) {
        EXPECT_EQ(times.all().size(), 3u);
        EXPECT_EQ(times.all()[0].compute, 1.0);
        EXPECT_EQ(times.all()[0].save, 0.5);
        EXPECT_EQ(times.all()[2].step, 5.0);
      }
    }
    times.finish();
    EXPECT_EQ(fresh, 7);
    EXPECT_EQ(named_at, 31);
    EXPECT_FALSE(times.straggler());
  });
}

TEST(StepsBetweenStates, CostLessThanTwoPercent) {
  for (const double save : {1e-5, 3e-4, 0.02, 0.1}) {
    for (const double step : {1e-3, 0.1, 2.0}) {
      const std::int64_t every = steps_between_states(save, step);
      EXPECT_GE(every, 1);
      EXPECT_LT(save / static_cast<double>(every), 0.02 * step) << save << " " << step;
    }
  }
  EXPECT_EQ(steps_between_states(0.01, 1), 1);
  EXPECT_EQ(steps_between_states(0.105, 1), 11);
  EXPECT_EQ(steps_between_states(1, 0), 1);
}

}  // namespace
}  // namespace peal
