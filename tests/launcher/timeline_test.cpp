#include "launcher/timeline.h"

#include <gtest/gtest.h>

#include <atomic>

#include "core/base/error.h"
#include "core/base/file.h"
#include "tests/allocations.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

void expect_input_error(const std::function<void()>& work, const std::string& text) {
  try {
    work();
    ADD_FAILURE() << "no error with " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
  }
}

TEST(Timeline, StepsToRecord) {
  const TimelineSteps steps = parse_timeline_steps("20:300");
  EXPECT_EQ(steps.first, 20);
  EXPECT_EQ(steps.last, 300);
  EXPECT_EQ(parse_timeline_steps("7:7").last, 7);
  for (const char* wrong : {"", "5", "5:", ":5", "0:5", "-1:5", "5:4", "1:2:3", "a:b", "1-5",
                            "1:5 ", " 1:5", "1e3:2e3", "1:99999999999999999999"}) {
    expect_input_error([&] { parse_timeline_steps(wrong); }, std::string("\"") + wrong + "\"");
  }

  const auto chosen = [](TimelineSteps asked, std::int64_t first, std::int64_t last) {
    const TimelineSteps s = steps_to_record(asked, first, last);
    return std::pair(s.first, s.last);
  };
  using Pair = std::pair<std::int64_t, std::int64_t>;
  EXPECT_EQ(chosen({}, 1, 5000), Pair(1, 100));
  EXPECT_EQ(chosen({}, 501, 5000), Pair(501, 600));
  EXPECT_EQ(chosen({}, 501, 550), Pair(501, 550));
  EXPECT_EQ(chosen({10, 20}, 1, 5000), Pair(10, 20));
  EXPECT_EQ(chosen({10, 20}, 15, 17), Pair(15, 17));
  expect_input_error([&] { chosen({10, 20}, 21, 40); }, "10:20; this run makes steps 21 to 40");
  expect_input_error([&] { chosen({41, 50}, 21, 40); }, "this run makes steps 21 to 40");
}

TEST(Timeline, MemoryIsBounded) {
  run_local_ranks(1, [](Communicator& comm) {
    expect_input_error(
        [&] {
          Timeline({1, 1 << 30}, {{1000}, 10}, comm);
        },
        "1.0 GiB a rank, holds");
  });
}

TEST(Timeline, ARecordedStepTakesNoHeapMemory) {
  std::atomic<std::int64_t> taken{-1};
  run_local_ranks(2, [&](Communicator& comm) {
    Stream s;
    Timeline timeline({2, 60}, {{2}, 3}, comm);
    timeline.start();
    std::vector<float> x(100);
    const Tensor view{x.data(), {100}};
    const auto steps = [&](int begin, int end) {
      for (int step = begin; step < end; ++step) {
        comm.set_step(step);
        timeline.begin_step(step);
        const TimelineScope scope(Timeline::active(&timeline), 0, "forward", 1);
        for (int i = 0; i < 3; ++i)
          comm.wait(s, comm.all_reduce(s, "bucket", view, view, ReduceOp::mean));
        timeline.end_step();
      }
      comm.wait(s, comm.barrier(s, "end"));
    };
    steps(1, 5);
    if (comm.rank() == 0) {
      taken = count_allocations([&] { steps(5, 50); });
    } else {
      steps(5, 50);
    }
    comm.wait(s, comm.barrier(s, "looked"));  // what a rank does as it leaves is not counted
  });
  EXPECT_EQ(taken, 0);
}

TEST(Timeline, WhatFindsNoRoomIsCounted) {
  const TemporaryFolder folder;
  run_local_ranks(1, [&](Communicator& comm) {
    Stream s;
    Timeline timeline({1, 1}, {{1}, 1}, comm);
    timeline.start();
    timeline.begin_step(1);
    for (int i = 0; i < 1 + 64 + 10; ++i) timeline.add(0, "forward", timeline.now());
    // More than the flight record holds between two looks, and more than there is room for.
    for (int i = 0; i < 6000; ++i) comm.wait(s, comm.barrier(s, "b"));
    timeline.end_step();
    timeline.write(folder.path() / "trace.json");
    EXPECT_EQ(timeline.dropped(), 10u + 6000u - 1025u);
  });
  const std::string text = read_file(folder.path() / "trace.json");
  EXPECT_NE(text.find("\"dropped\":4985"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(folder.path() / "trace.json.tmp"));
}

TEST(Timeline, EveryRankIsToldThatTheFileCannotBeWritten) {
  std::atomic<int> told{0};
  try {
    run_local_ranks(3, [&](Communicator& comm) {
      Timeline timeline({1, 1}, {{1}, 1}, comm);
      timeline.start();
      try {
        timeline.write("/proc/nowhere/trace.json");
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::input);
        EXPECT_NE(std::string(error.what()).find("/proc/nowhere/trace.json"), std::string::npos);
        ++told;
        throw;
      }
    });
  } catch (const Error&) {
  }
  EXPECT_EQ(told, 3);
}

}  // namespace
}  // namespace peal
