#include "launcher/rank_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>

#include "core/base/text.h"
#include "launcher/supervised.h"

namespace peal {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class RankLineTest : public testing::Test {
 protected:
  void SetUp() override {
    token_ = cat("test-", ::getpid());
    ::setenv(kTokenVariable, token_.c_str(), /*overwrite=*/1);
  }
  void TearDown() override { ::unsetenv(kTokenVariable); }

  // A process that has `work` done with its line; returns when it has ended.
  static void rank(const std::function<void(const RankLine&)>& work) {
    const pid_t child = ::fork();
    if (child == 0) {
      const RankLine line;
      work(line);
      ::_exit(0);
    }
    ::waitpid(child, nullptr, 0);
  }

  std::string token_;
};

// However late the agent looks: nobody has listened while they lived.
TEST_F(RankLineTest, EveryEndIsKnownOnce) {
  RankLines lines(token_);
  rank([](const RankLine&) { ::raise(SIGKILL); });
  rank([](const RankLine& line) { line.say_end(3); });
  rank([](const RankLine& line) {
    line.say_end(0);
    ::raise(SIGKILL);  // its work was done
  });
  EXPECT_THAT(lines.take_ends(), ElementsAre(RankLines::kNoWord, 3));
  EXPECT_THAT(lines.take_ends(), IsEmpty());
}

TEST_F(RankLineTest, WhatLivesHasNoEndAndIsWaitedFor) {
  RankLines lines(token_);
  int hold[2];
  ASSERT_EQ(::pipe(hold), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(hold[1]);
    const RankLine line;
    char end = 0;
    ::_exit(static_cast<int>(::read(hold[0], &end, 1)));
  }
  ::close(hold[0]);
  std::vector<pollfd> files;
  const auto wait = [&] {
    files.clear();
    lines.add_files(files);
    return ::poll(files.data(), files.size(), /*milliseconds=*/60000);
  };
  EXPECT_EQ(wait(), 1);
  EXPECT_THAT(lines.take_ends(), IsEmpty());
  lines.add_files(files);
  EXPECT_EQ(::poll(files.data(), files.size(), 0), 0);
  ::close(hold[1]);
  EXPECT_EQ(wait(), 1);
  EXPECT_THAT(lines.take_ends(), ElementsAre(RankLines::kNoWord));
  ::waitpid(child, nullptr, 0);
}

TEST_F(RankLineTest, ForgottenRanksAndOthersSayNothing) {
  RankLines lines(token_);
  rank([](const RankLine&) {});
  lines.forget_ranks();
  EXPECT_THAT(lines.take_ends(), IsEmpty());
  ::setenv(kTokenVariable, "another", 1);
  rank([](const RankLine& line) { line.say_end(1); });  // no agent is there
  ::unsetenv(kTokenVariable);
  rank([](const RankLine& line) { line.say_end(1); });
  EXPECT_THAT(lines.take_ends(), IsEmpty());
}

}  // namespace
}  // namespace peal
