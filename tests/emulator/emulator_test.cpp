// The emulated GPU itself: what it computes, and that it finds what is wrong.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/device/buffer.h"
#include "core/device/recording.h"
#include "tests/emulator/probe_kernels.h"

namespace peal::emulator {
namespace {

const Device kDevice{Device::Kind::cuda, 0};

std::vector<float> counted(std::size_t n) {
  std::vector<float> values(n);
  std::iota(values.begin(), values.end(), 0.0f);
  return values;
}

int wrong_of_twenty(bool waits) {
  Stream s(kDevice);
  int wrong = 0;
  for (int launch = 0; launch < 20; ++launch) {
    std::vector<float> from = counted(300), to(300, -1);
    reverse(s, waits, 300, from.data(), to.data());
    wrong += std::equal(to.begin(), to.end(), from.rbegin()) ? 0 : 1;
  }
  return wrong;
}

TEST(Emulator, ThreadsHandOverWhatABarrierIsBehind) {
  EXPECT_EQ(wrong_of_twenty(true), 0);
}

TEST(Emulator, AMissingBarrierIsSeen) {
  EXPECT_GE(wrong_of_twenty(false), 20);
}

TEST(Emulator, ABlockDoesNotFindWhatAnotherLeft) {
  Stream s(kDevice);
  for (int launch = 0; launch < 2; ++launch) {
    std::vector<float> seen(9);
    first_write(s, 3, seen.data());
    for (std::size_t i = 0; i < seen.size(); ++i) {
      EXPECT_TRUE(i < 3 ? seen[i] == 1 : std::isnan(seen[i])) << i << ": " << seen[i];
    }
  }
}

TEST(Emulator, EveryThreadOfEveryBlockRunsOnce) {
  Stream s(kDevice);
  for (const auto& [blocks, threads] :
       {std::pair{dim3(5), dim3(33)}, {dim3(3, 2, 2), dim3(4, 5, 3)}}) {
    const unsigned count = blocks.x * blocks.y * blocks.z * threads.x * threads.y * threads.z;
    std::vector<int> seen(count), expected(count);
    std::iota(expected.begin(), expected.end(), 0);
    number(s, blocks, threads, 0, seen.data());
    EXPECT_EQ(seen, expected);
  }
}

TEST(Emulator, WarpsExchange) {
  Stream s(kDevice);
  for (const bool eights : {false, true}) {
    constexpr unsigned kThreads = 96, kBlocks = 2;
    std::vector<double> from(kThreads * kBlocks), sums(from.size());
    std::vector<unsigned> votes(from.size());
    for (std::size_t i = 0; i < from.size(); ++i) from[i] = i % 3 == 0 ? -double(i) : double(i);
    warps(s, kBlocks, kThreads, eights, from.data(), sums.data(), votes.data());
    const std::size_t lanes = eights ? 8 : 32;
    for (std::size_t i = 0; i < from.size(); ++i) {
      double sum = 0;
      unsigned vote = 0;
      for (std::size_t k = 0; k < lanes; ++k) sum += from[i / lanes * lanes + k];
      for (std::size_t k = 0; k < 32; ++k) vote |= from[i / 32 * 32 + k] > 0 ? 1u << k : 0u;
      ASSERT_EQ(sums[i], sum) << i;
      ASSERT_EQ(votes[i], vote) << i;
    }
  }
}

TEST(Emulator, BlocksAddUpAndCount) {
  Stream s(kDevice);
  std::vector<double> from(512), sums(512);
  std::vector<int> counts(512);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = i % 5 == 0 ? -double(i) : double(i);
  blocks(s, 2, from.data(), sums.data(), counts.data());
  for (std::size_t i = 0; i < from.size(); ++i) {
    const auto begin = from.begin() + static_cast<std::ptrdiff_t>(i / 256 * 256);
    ASSERT_EQ(sums[i], std::accumulate(begin, begin + 256, 0.0));
    ASSERT_EQ(counts[i], std::count_if(begin, begin + 256, [](double x) { return x > 0; }));
  }
}

TEST(Emulator, AnyThreadOfTheHostMayLaunch) {
  std::vector<std::thread> threads;
  std::vector<std::vector<int>> seen(4, std::vector<int>(200));
  for (auto& mine : seen) {
    threads.emplace_back([&mine] {
      Stream s(kDevice);
      for (int launch = 0; launch < 20; ++launch) number(s, 2, 100, 0, mine.data());
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& mine : seen) {
    for (int i = 0; i < 200; ++i) ASSERT_EQ(mine[static_cast<std::size_t>(i)], 20 * i);
  }
}

TEST(Emulator, WhatIsCapturedRunsWhenItIsReplayed) {
  Stream s(kDevice);
  std::vector<int> seen(8);
  const Recording recording(s, "numbers", [&](Stream& on) { number(on, 1, 8, 0, seen.data()); });
  EXPECT_EQ(seen[7], 0);
  recording.replay(s);
  recording.replay(s);
  EXPECT_EQ(seen[7], 14);
}

TEST(Emulator, RefusesWhatAGpuDoes) {
  Stream s(kDevice);
  const auto refuse = [&](dim3 blocks, dim3 threads, std::size_t shared) {
    EXPECT_THROW(number(s, blocks, threads, shared, nullptr), Error);
  };
  refuse(0, 1, 0);
  refuse(1, 0, 0);
  refuse(1, 1025, 0);
  refuse(1, dim3(1, 1, 65), 0);
  refuse(dim3(1, 65536), 1, 0);
  refuse(1, 1, (48 << 10) + 1);
  EXPECT_THROW(allow((227 << 10) + 1), Error);
  allow(60 << 10);
  std::vector<int> seen(1);
  number(s, 1, 1, 60 << 10, seen.data());
}

TEST(EmulatorDeathTest, ThreadsThatWaitForNobody) {
  Stream s(kDevice);
  wait(s, Fault::none);
  EXPECT_DEATH(wait(s, Fault::half_waits),
               "kernel wait_kernel, block .[01], 0, 0. of .2, 1, 1.*32 threads wait at a barrier");
  EXPECT_DEATH(wait(s, Fault::others_end), "1 threads wait at a barrier.*63 have ended");
  EXPECT_DEATH(wait(s, Fault::warp_parts), "its warp is in another exchange");
}

TEST(EmulatorDeathTest, StoresThatAGpuWouldTrap) {
  Stream s(kDevice);
  const Buffer room(32, kDevice);
  auto* const to = reinterpret_cast<float*>(room.data());
  store(s, to, 4);
  EXPECT_DEATH(store(s, to, 8), "heap-buffer-overflow");
  EXPECT_DEATH(store(s, to, 1), "misaligned");
}

}  // namespace
}  // namespace peal::emulator
