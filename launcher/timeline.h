// Records what a rank does in some of its steps, and writes that of all ranks into one file in
// Chrome's trace event format, which Perfetto and chrome://tracing open.
//
// All memory is taken before the first step; a recorded step costs two time stamps and 40 bytes a
// span, and a copy of the step's calls out of the flight record. What finds no room is counted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <vector>

#include "comm/flight.h"
#include "launcher/common_clock.h"

namespace peal {

struct TimelineSteps {
  std::int64_t first = 0, last = 0;  // counted from 1, both recorded; 0: the run's first 100
};
// "1:100". Throws Error(input) on anything else.
TimelineSteps parse_timeline_steps(const std::string& text);
// The steps of `asked` that a run of steps [first, last] makes. Throws Error(input) when it makes
// none of them.
TimelineSteps steps_to_record(TimelineSteps asked, std::int64_t first, std::int64_t last);

struct TimelineSpan {
  const char* name = nullptr;        // a literal
  std::int64_t step = 0;             // counted from 1
  int number = -1;                   // virtual rank of a pass, or bucket; -1: neither
  std::uint64_t begin = 0, end = 0;  // ticks
};

// What a step can have at most.
struct TimelineRoom {
  std::vector<std::size_t> spans;  // by lane
  std::size_t calls = 0;
};

class Timeline {
 public:
  // Throws Error(input) when that many steps take more memory than kMostBytes.
  Timeline(TimelineSteps steps, const TimelineRoom& room, Communicator& comm);
  static constexpr std::size_t kMostBytes = std::size_t{1} << 30;

  // Collective, before the first step.
  void start() { clock_.start(); }

  // The thread that makes the steps. What it does after a step counts to that step.
  void begin_step(std::int64_t step);
  void end_step();
  // `timeline`, if there is one and it is recording.
  static Timeline* active(Timeline* timeline) {
    return timeline && timeline->recording_ ? timeline : nullptr;
  }
  bool complete(std::int64_t step) const { return step >= steps_.last; }

  std::uint64_t now() const { return clock_.now(); }
  // Lanes add side by side, each its own; lane 0 is the thread that makes the steps.
  void add(int lane, const char* name, std::uint64_t begin, int number = -1) {
    Track& track = lanes_[static_cast<std::size_t>(lane)];
    add_to(track, {name, step_, number, begin, now()});
  }
  // The thread that writes a checkpoint of `step`.
  void checkpoint(bool begins, std::int64_t step);

  // Collective: ends the recording and writes the file on rank 0; every rank throws when that
  // fails. Returns how well the clocks agree, in seconds, the same on every rank.
  double write(const std::filesystem::path& file);

  std::uint64_t dropped() const { return dropped_; }

 private:
  struct Track {
    std::vector<TimelineSpan> spans;
    std::size_t used = 0;
    std::uint64_t dropped = 0;
  };
  static void add_to(Track& track, const TimelineSpan& span) {
    if (track.used < track.spans.size()) {
      track.spans[track.used++] = span;
    } else {
      ++track.dropped;
    }
  }
  void take_calls(bool keep);
  std::string text();
  void append_calls(std::string& out, int thread) const;

  TimelineSteps steps_;
  Communicator& comm_;
  CommonClock clock_;
  bool recording_ = false;
  std::int64_t step_ = 0;
  std::vector<Track> lanes_;
  std::vector<FlightCall> calls_, fresh_;
  std::size_t calls_used_ = 0;
  std::uint64_t calls_seen_ = 0, dropped_ = 0;
  std::mutex checkpoint_mutex_;  // of the two below
  Track checkpoints_;
  std::uint64_t checkpoint_began_ = 0;
};

// Adds its scope to a timeline, if there is one.
class TimelineScope {
 public:
  TimelineScope(Timeline* timeline, int lane, const char* name, int number = -1)
      : timeline_(timeline),
        lane_(lane),
        number_(number),
        name_(name),
        begin_(timeline ? timeline->now() : 0) {}
  ~TimelineScope() {
    if (timeline_) timeline_->add(lane_, name_, begin_, number_);
  }
  TimelineScope(const TimelineScope&) = delete;
  TimelineScope& operator=(const TimelineScope&) = delete;

 private:
  Timeline* timeline_;
  int lane_, number_;
  const char* name_;
  std::uint64_t begin_;
};

}  // namespace peal
