// What a person sees of a long run: a bar that is redrawn on a terminal, plain lines elsewhere.
// Training never waits for the reader of a step's line: mpirun stops reading while it ends a job,
// and a rank that waits for it then writes no checkpoint.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

namespace peal {

struct ProgressLine {
  std::int64_t epoch = 0, epochs = 0;  // epoch counts from 1
  std::int64_t step = 0, steps = 0;
  double loss = 0, accuracy = -1;  // -1: none
  double samples_per_second = 0;
  double seconds_left = -1;  // -1: not known
};

class Progress {
 public:
  // `enabled`: rank 0. `terminal`: redraw one line, at most ten times a second; else print at most
  // one line of a step a second.
  Progress(bool enabled, bool terminal);
  ~Progress();

  // Left out when it is too soon or nobody reads. `log_line`: plain lines are taken of these steps
  // only, and of the last one always.
  void step(const ProgressLine& line, bool log_line);
  void note(const std::string& line);  // on a terminal only, until the next line
  void say(const std::string& line);   // a line that stays

 private:
  bool due(const ProgressLine& line, bool log_line);
  void clear();

  bool enabled_, terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_{};
};

// "1:02:03" or "4:05"
std::string clock_text(double seconds);

}  // namespace peal
