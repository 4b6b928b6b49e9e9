// Other programs, run to their end.
#pragma once

#include <string>
#include <vector>

namespace peal {

// A word, or several, as a shell takes them back.
std::string shell_quoted(const std::string& word);
std::string command_line(const std::vector<std::string>& words);

struct Outcome {
  int code = 0;  // 128 + number when a signal ended it; 127 when it could not be started
  std::string out, error;
};

// A program beside this one, without input.
class ChildProgram {
 public:
  explicit ChildProgram(const std::vector<std::string>& words);
  ~ChildProgram();  // waits
  ChildProgram(ChildProgram&&) noexcept;
  ChildProgram(const ChildProgram&) = delete;

  const Outcome& wait();

 private:
  int pid_ = -1, out_ = -1, error_ = -1;
  bool ended_ = false;
  Outcome outcome_;
};

Outcome run_program(const std::vector<std::string>& words);

// Runs what starts ranks, with this program's output and no input, and returns its exit code. The
// first SIGINT, SIGTERM, SIGHUP or SIGUSR1 becomes a SIGUSR1, which mpirun and srun pass on to
// every rank at once, where they would answer the others by killing; the next a SIGTERM. SIGUSR2 is
// passed on. It ends when this process does. Throws Error(input) that ends with `remedy` when it
// cannot start.
int run_ranks(const std::vector<std::string>& words, const std::string& remedy);

// What starts ranks, beside this program: in a process group of its own, with this program's output
// and no input.
class RunningProgram {
 public:
  // Throws Error(input) that ends with `remedy` when it cannot start.
  RunningProgram(const std::vector<std::string>& words, const std::string& remedy);
  ~RunningProgram();  // kill()
  RunningProgram(const RunningProgram&) = delete;

  bool ended();                       // does not wait
  int code() const { return code_; }  // once it has ended
  void signal(int number);
  void kill();  // it and all below it on this host, at once

 private:
  int pid_ = -1, code_ = 0;
  bool ended_ = false;
};

// Where this program lies; in a bundle (cluster/bundle.sh), the script there that starts it.
std::string own_path();

}  // namespace peal
