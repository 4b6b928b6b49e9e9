// What ranks see of each other's processes.
#include "comm/process_space.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

namespace peal {
namespace {

// Between its end and the moment somebody waits for it, a process can still be sent signals.
TEST(ProcessSpace, AFetchKnowsThatAProcessHasEnded) {
  ProcessSpace space(SharedMapping::create(SharedSpace::bytes(2)), 2, 0, /*construct=*/true);
  std::int32_t word = 42, found = 0;
  const pid_t child = ::fork();
  if (child == 0) {
    space.state(1).process = ::getpid();
    for (;;) ::pause();
  }
  ASSERT_GT(child, 0);
  while (space.state(1).process == 0) std::this_thread::yield();
  const auto fetch = [&] {
    return space.fetch(1, reinterpret_cast<std::byte*>(&found),
                       reinterpret_cast<const std::byte*>(&word), sizeof word);
  };
  EXPECT_TRUE(fetch());
  EXPECT_EQ(found, 42);
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  siginfo_t info;
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT), 0);
  EXPECT_TRUE(space.alive(1));
  EXPECT_FALSE(fetch());
  EXPECT_EQ(errno, ESRCH);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(space.alive(1));
}

}  // namespace
}  // namespace peal
