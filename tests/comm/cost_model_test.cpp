// Which way the cost model picks, where the answer can be worked out by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "comm/small_reduce.h"
#include "comm/way_chooser.h"

namespace peal {
namespace {

constexpr double kMicro = 1e-6, kNano = 1e-9;

// A step of 10 us, a byte of 1 ns, all else free.
CostModel simple() {
  CostModel model;
  model.inside = {1 * kMicro, 0, 0.1 * kNano};
  model.between = {10 * kMicro, 0, 1 * kNano};
  return model;
}

Call all_reduce(std::int64_t count, DType dtype = DType::u8,
                Algorithm algorithm = Algorithm::automatic) {
  Call call;
  call.record.kind = CallKind::all_reduce;
  call.record.dtype = dtype;
  call.record.count = call.longest = count;
  call.record.algorithm = algorithm;
  return call;
}

WayChooser::Hosts one_rank_each(int hosts) {
  return {{hosts, hosts, 1, 1}, /*share_memory=*/false, /*in_order=*/true};
}

TEST(CostModel, CostLines) {
  const Spread four{4, 4, 1, 1};
  // steps, messages, bytes sent; bytes added
  const auto between = [&](Way way, const Load& load, const Spread& spread) {
    const CostModel::Values c = counts(way, load, spread);
    return std::vector<double>{c[3], c[4], c[5], c[2]};
  };
  using Numbers = std::vector<double>;
  EXPECT_EQ(between(Way::small, {1000}, four), (Numbers{2, 2, 3000, 4000}));
  EXPECT_EQ(between(Way::doubling, {1000}, four), (Numbers{2, 2, 2000, 4000}));
  EXPECT_EQ(between(Way::ring, {1000}, four), (Numbers{2 + 6, 2 + 6, 1500, 1000}));
  EXPECT_EQ(between(Way::direct, {1000}, four), (Numbers{2 + 2, 2 + 6, 1500, 1000}));
  EXPECT_EQ(between(Way::direct, {1000, 3}, four), (Numbers{2 + 2, 2 + 6, 3000, 3000}));
  const Spread two_by_two{4, 2, 2, 2};
  // The link of a host carries what both of its ranks send to the other two.
  EXPECT_EQ(between(Way::direct, {1000}, two_by_two), (Numbers{4, 8, 2000, 1000}));
  EXPECT_EQ(between(Way::hosts_direct, {1000}, two_by_two), (Numbers{2 + 2, 2 + 2, 1000, 1500}));
  EXPECT_EQ(between(Way::hosts_ring, {1000}, two_by_two), (Numbers{2 + 2, 2 + 2, 1000, 1500}));
  EXPECT_DOUBLE_EQ(seconds(simple(), Way::ring, {1000}, four),
                   80 * kMicro + 1500 * kNano + 100 * kNano);
}

// 1 us for another meeting against (n - 1) N bytes of 0.1 ns to add: N = 10000 / (n - 1).
TEST(CostModel, MailUntilAnotherMeetingIsCheaper) {
  EXPECT_EQ(most_mail_bytes(simple(), 8), 1428u);
  EXPECT_EQ(most_mail_bytes(simple(), 12), 909u);
  EXPECT_EQ(most_mail_bytes(simple(), 104), 97u);
  EXPECT_EQ(most_mail_bytes(simple(), 2), 2048u);  // no more fits
  EXPECT_EQ(most_mail_bytes(simple(), 9, Way::slices), 0u);
  EXPECT_EQ(most_mail_bytes(simple(), 101, Way::mail), 2048u);
  CostModel free_meetings = simple();
  free_meetings.inside.meeting = 0;
  EXPECT_EQ(most_mail_bytes(free_meetings, 4), 0u);
}

// Two more steps, 2 us, against (n - 1) (1 - 2/n) N bytes less.
TEST(CostModel, SmallUntilTwoMoreStepsAreCheaper) {
  CostModel model = simple();
  model.between.step = 1 * kMicro;
  model.inside.added = 0;
  WayChooser six(model, one_rank_each(6), std::nullopt);  // 1 + 2 + 2 blocks; 10/3 N ns = 2 us: 600
  EXPECT_EQ(six.way(all_reduce(600)), Way::small);
  EXPECT_EQ(six.way(all_reduce(601)), Way::direct);
  EXPECT_EQ(six.way(all_reduce(1 << 28)), Way::direct);
  // 3 N instead of 7 N; then 1.25 N ns = 2 us more than direct: 1600.
  WayChooser eight(model, one_rank_each(8), std::nullopt);
  EXPECT_EQ(eight.way(all_reduce(1600)), Way::doubling);
  EXPECT_EQ(eight.way(all_reduce(1601)), Way::direct);
  EXPECT_EQ(eight.way(all_reduce(100, DType::f16)), Way::small);
  // On two ranks it sends no byte more; the buffer ends it.
  WayChooser two(model, one_rank_each(2), std::nullopt);
  EXPECT_EQ(two.way(all_reduce(48 << 10)), Way::small);
  EXPECT_EQ(two.way(all_reduce((48 << 10) + 1)), Way::direct);
}

TEST(CostModel, HostsReduceInsideFirstWhereLinksAreSlow) {
  const WayChooser::Hosts hosts{{8, 2, 4, 4}, /*share_memory=*/true, /*in_order=*/true};
  WayChooser ways(simple(), hosts, std::nullopt);
  EXPECT_EQ(ways.way(all_reduce(1 << 20)), Way::hosts_direct);
  // Where a host's ranks are not in a row no tree can reduce inside first.
  WayChooser::Hosts shuffled = hosts;
  shuffled.in_order = false;
  EXPECT_EQ(WayChooser(simple(), shuffled, std::nullopt).way(all_reduce(1 << 20)), Way::hosts_ring);
  // Meetings that take longer than the link saves.
  CostModel model = simple();
  model.inside.meeting = 1;
  EXPECT_EQ(WayChooser(model, hosts, std::nullopt).way(all_reduce(1 << 20)), Way::ring);
}

// Whatever the model: what a job is promised about its bits.
TEST(CostModel, WaysThatAreAllowed) {
  std::vector<CostModel> models(4, simple());
  models[1].between = {0, 0, 1 * kNano};
  models[2].between = {1, 0, 0};
  models[3].inside = {0, 0, 0};
  const TreePlan tree = tree_plan(16, 8);
  for (const CostModel& model : models) {
    for (const bool share : {false, true}) {
      const WayChooser::Hosts hosts{{8, 2, 4, 4}, share, /*in_order=*/true};
      for (std::int64_t count = 1; count < 1 << 26; count *= 4) {
        WayChooser ways(model, hosts, std::nullopt), others(models[0], hosts, std::nullopt);
        const Call ring = all_reduce(count, DType::f32, Algorithm::ring);
        EXPECT_EQ(ways.way(ring), others.way(ring)) << "a ring by fixed sizes";
        Call ordered = all_reduce(count, DType::f32, Algorithm::ordered_tree);
        EXPECT_TRUE(ways.way(ordered) != Way::ring && ways.way(ordered) != Way::hosts_ring);
        ordered.record.kind = CallKind::all_reduce_tree;
        ordered.tree = &tree;
        EXPECT_TRUE(ways.way(ordered) != Way::ring && ways.way(ordered) != Way::hosts_ring);
        EXPECT_NE(ways.way(ordered), Way::doubling);
        for (const Algorithm algorithm :
             {Algorithm::automatic, Algorithm::ring, Algorithm::ordered_tree}) {
          const Way half = ways.way(all_reduce(count, DType::bf16, algorithm));
          EXPECT_TRUE(half == Way::small || half == Way::direct) << "rounded once";
        }
        Call group = all_reduce(count);
        const std::int64_t bounds[] = {0, count};
        group.bounds = bounds;
        const Way fused = ways.way(group);
        EXPECT_TRUE(fused == Way::ring || fused == Way::direct) << "packed";
        Call gather = all_reduce(count);
        gather.record.kind = CallKind::all_gather;
        EXPECT_EQ(ways.way(gather), Way::direct);
      }
    }
  }
}

TEST(CostModel, OnlyOneWayWhereItCanGo) {
  const WayChooser::Hosts hosts{{8, 2, 4, 4}, /*share_memory=*/true, /*in_order=*/true};
  WayChooser ring(simple(), hosts, Way::ring), small(simple(), hosts, Way::small);
  EXPECT_EQ(ring.way(all_reduce(1)), Way::ring);
  EXPECT_NE(ring.way(all_reduce(1, DType::f32, Algorithm::ordered_tree)), Way::ring);
  EXPECT_EQ(small.way(all_reduce(12 << 10)), Way::small);
  EXPECT_NE(small.way(all_reduce((12 << 10) + 1)), Way::small);
  EXPECT_EQ(ring.way(all_reduce(0)), Way::direct);
}

// Direct takes ten times as long around 512 KiB: there, and only there, a ring is quicker.
TEST(CostModel, Factors) {
  CostModel model = simple();
  model.factors[static_cast<std::size_t>(Way::direct)][13] = 10;
  EXPECT_EQ(model.factor(Way::direct, 512 << 10), 10);
  EXPECT_EQ(model.factor(Way::direct, 256 << 10), 1);
  EXPECT_EQ(model.factor(Way::ring, 512 << 10), 1);
  EXPECT_EQ(model.factor(Way::direct, 1), 1);
  EXPECT_EQ(model.factor(Way::direct, 1e12), 1);
  EXPECT_NEAR(model.factor(Way::direct, std::exp2(18.5)), 5.5, 1e-9);
  WayChooser ways(model, one_rank_each(4), std::nullopt);
  EXPECT_EQ(ways.way(all_reduce(256 << 10)), Way::direct);
  EXPECT_EQ(ways.way(all_reduce(512 << 10)), Way::ring);
  EXPECT_EQ(ways.way(all_reduce(1 << 20)), Way::direct);
}

// Every switch is where the cost of two ways is the same.
TEST(CostModel, SwitchesAreWhereCostsMeet) {
  CostModel model;  // the built-in one
  for (const int n : {2, 3, 4, 8, 64, 1000}) {
    const Spread spread{n, n, 1, 1};
    const std::vector<Switches::Candidate> ways{{Way::small}, {Way::direct}, {Way::ring}};
    const auto least = [&](double bytes) {
      double best = 1e9;
      for (const auto& way : ways) best = std::min(best, seconds(model, way.way, {bytes}, spread));
      return best;
    };
    const Switches switches(model, ways, 1, spread, std::nullopt);
    for (double bytes = 1; bytes < 1e12; bytes = bytes * 1.1 + 1) {
      const Way way = switches.way(static_cast<std::uint64_t>(bytes));
      EXPECT_DOUBLE_EQ(seconds(model, way, {std::floor(bytes)}, spread), least(std::floor(bytes)))
          << n << " ranks, " << bytes << " bytes, " << name_of(way);
    }
  }
}

TEST(CostModel, Names) {
  for (std::size_t i = 0; i < kWays; ++i) {
    const Way way = static_cast<Way>(i);
    EXPECT_EQ(way_of(name_of(way)), way);
    EXPECT_NE(names_of_ways().find(name_of(way)), std::string::npos);
  }
  EXPECT_EQ(way_of("tree"), std::nullopt);
}

}  // namespace
}  // namespace peal
