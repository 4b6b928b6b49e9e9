#include "launcher/shard_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <fstream>

#include "core/base/error.h"

namespace peal {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

constexpr double kAtOnce = 0, kPatient = 60;

class ShardLocks : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("peal-lock-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // What every rank of a second run is told; "" when it gets the lock.
  std::string try_second(double wait) {
    std::string told;
    std::atomic<int> refused = 0;
    run_local_ranks(2, [&](Communicator& comm) {
      try {
        const ShardLock lock(folder_, comm, wait);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::input);
        ++refused;
        if (comm.rank() == 0) told = error.what();
      }
    });
    EXPECT_TRUE(refused == 0 || refused == 2);
    return told;
  }

  fs::path folder_;
};

TEST_F(ShardLocks, OneRunAtATime) {
  run_local_ranks(3, [&](Communicator& comm) {
    const ShardLock lock(folder_, comm, kAtOnce);
    if (comm.rank() == 0) {
      EXPECT_THAT(
          try_second(kAtOnce),
          testing::MatchesRegex(folder_.string() +
                                ": another `peal shard` is at work in this folder: process " +
                                std::to_string(::getpid()) +
                                " on host [^ ]+, since 20..-..-.. ..:..:..; wait for its "
                                "end or choose another --out"));
    }
    Stream s;
    comm.wait(s, comm.barrier(s, "tried"));
  });
  EXPECT_EQ(try_second(kAtOnce), "");
}

// As a rank on another host that its killed run has left behind.
TEST_F(ShardLocks, RanksThatOutliveTheirRun) {
  run_local_ranks(1, [&](Communicator& comm) { const ShardLock lock(folder_, comm, kAtOnce); });
  auto left = std::make_unique<ByteLocks>(folder_ / ".lock");
  ASSERT_TRUE(left->try_shared((1 << 20) + 1));
  EXPECT_THAT(try_second(kAtOnce), HasSubstr("ranks of a `peal shard` that has ended still write"));
  left.reset();
  EXPECT_EQ(try_second(kAtOnce), "");
}

TEST_F(ShardLocks, AKilledRunBlocksNobody) {
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ByteLocks locks(folder_ / ".lock");
    const bool both = locks.try_exclusive(1 << 20) && locks.try_shared((1 << 20) + 1);
    std::ofstream(folder_ / ".lock") << "process 1 on host elsewhere\n";
    if (::write(ready[1], both ? "y" : "n", 1) == 1) ::pause();
    ::_exit(0);
  }
  char held = 'n';
  ASSERT_EQ(::read(ready[0], &held, 1), 1);
  EXPECT_EQ(held, 'y');
  EXPECT_THAT(try_second(kAtOnce), HasSubstr("in this folder: process 1 on host elsewhere; wait"));
  ::kill(child, SIGKILL);
  EXPECT_EQ(try_second(kPatient), "");
  ::waitpid(child, nullptr, 0);
  ::close(ready[0]);
  ::close(ready[1]);
}

}  // namespace
}  // namespace peal
