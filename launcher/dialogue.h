// Another program that is spoken to in lines, with a deadline on every answer.
#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace peal {

// One thread uses it. What cannot be started is a program that has ended with code 127.
class Dialogue {
 public:
  using Time = std::chrono::steady_clock::time_point;
  static constexpr std::size_t kLongestLine = std::size_t{1} << 20;

  // `apart`: in a process group of its own, where a terminal's Ctrl-C does not reach it, and with
  // no signal blocked.
  explicit Dialogue(const std::vector<std::string>& words, bool apart = false);
  ~Dialogue();  // kills the program where it still runs
  Dialogue(const Dialogue&) = delete;

  // Sends a line. One that the program does not take is lost: hear() then tells.
  void say(std::string line);

  // Its next line, without the end; nothing at the deadline (one that is over: never waits), when
  // it closes its output, and after a line that is too long.
  std::optional<std::string> hear(Time deadline);
  bool closed() const { return out_ < 0; }  // whether hear() has come to the end of its output

  // Closes its input and waits for its end; false where it still runs at the deadline.
  bool finish(Time deadline);
  void send_signal(int number);

  // After finish() was true: 128 + number when a signal ended it.
  int code() const { return code_; }
  std::string error() const;       // what it has written to standard error until now
  std::string last_error() const;  // the last line of it

 private:
  bool read_more(Time deadline);

  int pid_ = -1, in_ = -1, out_ = -1, error_ = -1;
  bool ended_ = false;
  int code_ = 0;
  std::string start_trouble_, heard_;
};

}  // namespace peal
