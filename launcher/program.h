// Other programs: run to their end, or become.
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
class Program {
 public:
  explicit Program(const std::vector<std::string>& words);
  ~Program();  // waits
  Program(Program&&) noexcept;
  Program(const Program&) = delete;

  const Outcome& wait();

 private:
  int pid_ = -1, out_ = -1, error_ = -1;
  bool ended_ = false;
  Outcome outcome_;
};

Outcome run_program(const std::vector<std::string>& words);

// This process goes on as `words`. Throws Error(input) that ends with `remedy` when it cannot.
[[noreturn]] void become(const std::vector<std::string>& words, const std::string& remedy);

// Where this program lies.
std::string own_path();

}  // namespace peal
