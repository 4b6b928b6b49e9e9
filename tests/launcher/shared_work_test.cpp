#include "launcher/shared_work.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <string>

#include "core/base/error.h"
#include "launcher/stop_signal.h"

namespace peal {
namespace {

using ::testing::HasSubstr;

TEST(SharedWork, AllEndAndTheUnitsOfAllAreTold) {
  std::atomic<int> finished = 0;
  run_local_ranks(3, [&](Communicator& comm) {
    std::int64_t told = 0;
    SharedWork work(comm, [&](std::int64_t done) { told = done; });
    finished += work.run([&] {
      for (std::int64_t i = 0; i <= 10 * comm.rank(); ++i) EXPECT_TRUE(work.go_on(i));
    });
    EXPECT_EQ(told, 30);
  });
  EXPECT_EQ(finished, 3);
}

// The others would work for ever.
TEST(SharedWork, AFailureEndsTheOthersAndIsThrownByAll) {
  std::atomic<int> told = 0;
  run_local_ranks(3, [&](Communicator& comm) {
    SharedWork work(comm, [](std::int64_t) {});
    try {
      work.run([&] {
        if (comm.rank() == 1) fail_input("picture", "corrupt");
        for (std::int64_t i = 0; work.go_on(i); ++i) {
        }
      });
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      EXPECT_THAT(error.what(), HasSubstr("picture: corrupt"));
      ++told;
    }
  });
  EXPECT_EQ(told, 3);
}

TEST(SharedWork, ASignalStopsAll) {
  StopSignal signals({SIGTERM});
  std::atomic<int> stopped = 0;
  run_local_ranks(2, [&](Communicator& comm) {
    SharedWork work(comm, [](std::int64_t) {});
    const bool finished = work.run([&] {
      if (comm.rank() == 1) std::raise(SIGTERM);
      for (std::int64_t i = 0; work.go_on(i); ++i) {
      }
    });
    stopped += !finished;
  });
  EXPECT_EQ(stopped, 2);
}

}  // namespace
}  // namespace peal
