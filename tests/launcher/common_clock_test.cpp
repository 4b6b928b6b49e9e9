#include "launcher/common_clock.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cmath>
#include <thread>

#include "core/base/random.h"

namespace peal {
namespace {

// Barriers among two ranks whose messages take unequal times each way; clock 1 is `ahead` seconds
// ahead of clock 0.
struct Barriers {
  Meeting rank_0, rank_1;
  double ahead = 0;
};

Barriers barriers(std::uint64_t seed, double ahead, double there, double back) {
  const Random random({.seed = seed});
  std::uint64_t draws = 0;
  const auto draw = [&] { return static_cast<double>(random.uniform(draws++)); };
  Barriers b{.ahead = ahead};
  double now = 5;
  for (std::size_t i = 0; i < Meeting::kBarriers; ++i) {
    const double began_0 = now + 1e-4 * draw(), began_1 = now + 1e-4 * draw();
    const double ended_0 = std::max(began_0, began_1 + back * (1 + draw()));
    const double ended_1 = std::max(began_1, began_0 + there * (1 + draw()));
    b.rank_0.began[i] = began_0;
    b.rank_0.ended[i] = ended_0;
    b.rank_1.began[i] = began_1 + ahead;
    b.rank_1.ended[i] = ended_1 + ahead;
    now = std::max(ended_0, ended_1);
  }
  return b;
}

TEST(CommonClock, TheOffsetIsWithinItsBound) {
  for (const double ahead : {0.0, 3.5, -1e5, 1e-6}) {
    for (const auto& [there, back] : {std::pair{1e-4, 1e-4}, {1e-3, 1e-5}, {1e-6, 1e-3}}) {
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        const Barriers b = barriers(seed, ahead, there, back);
        const ClockOffset offset = offset_between(b.rank_0, b.rank_1);
        const double rounding = 1e-10;
        EXPECT_LE(std::abs(offset.seconds + ahead), offset.error + rounding);
        EXPECT_LT(offset.error, there + back);  // the quickest message each way, and some waiting
        const ClockOffset back_again = offset_between(b.rank_1, b.rank_0);
        EXPECT_NEAR(back_again.seconds, -offset.seconds, rounding);
      }
    }
  }
}

// Threads of one process have one clock: what is taken for the offset is the error.
TEST(CommonClock, RanksAgreeOnAMomentWithinTheBound) {
  constexpr int kRanks = 3;
  std::atomic<std::uint64_t> moment{0};
  std::atomic<bool> counting{false};  // rank 0 has left its first meeting
  std::array<double, kRanks> at{}, error{};
  run_local_ranks(kRanks, [&](Communicator& comm) {
    // Each clock counts from when it was made.
    std::this_thread::sleep_for(std::chrono::milliseconds(5 * comm.rank()));
    CommonClock clock(comm);
    // A rank that comes late to the first barriers makes them wide, and spoils nothing.
    if (comm.rank() == 1) std::this_thread::sleep_for(std::chrono::milliseconds(30));
    clock.start();
    if (comm.rank() == 0) {
      counting = true;
      counting.notify_all();
    }
    counting.wait(false);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    if (comm.rank() == 2) moment = clock.now();
    clock.end();
    const auto r = static_cast<std::size_t>(comm.rank());
    at[r] = clock.seconds(moment);
    error[r] = clock.error();
    EXPECT_GE(at[r], 0.02 - error[r]);
    EXPECT_LT(error[r], 0.02);
  });
  EXPECT_EQ(error[0], 0);
  for (std::size_t r = 1; r < kRanks; ++r) {
    EXPECT_GT(error[r], 0);
    // Ticks become seconds by a rate that each rank measures: 10 parts in a million apart.
    EXPECT_LE(std::abs(at[r] - at[0]), error[r] + 1e-5 * at[0]);
  }
}

}  // namespace
}  // namespace peal
