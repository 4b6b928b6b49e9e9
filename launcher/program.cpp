#include "launcher/program.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "core/base/error.h"

namespace peal {
namespace {

std::vector<char*> arguments(const std::vector<std::string>& words) {
  std::vector<char*> out;
  for (const std::string& word : words) out.push_back(const_cast<char*>(word.c_str()));
  out.push_back(nullptr);
  return out;
}

// Output goes to memory, so that a program never waits for this one to read.
std::string contents(int file) {
  std::string text;
  char block[4096];
  ssize_t n = 0;
  while ((n = ::pread(file, block, sizeof block, static_cast<off_t>(text.size()))) > 0) {
    text.append(block, static_cast<std::size_t>(n));
  }
  return text;
}

int code_of(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Started {
  pid_t pid = -1;
  int error = 0;  // errno of exec
};

// In a process group of its own: a terminal's Ctrl-C is for this process alone.
Started start_apart(const std::vector<std::string>& words, const sigset_t& mask) {
  int trouble[2];
  if (::pipe2(trouble, O_CLOEXEC) != 0) return {.error = errno};
  const std::vector<char*> argv = arguments(words);
  Started started{.pid = ::fork()};
  if (started.pid == 0) {
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    ::sigprocmask(SIG_SETMASK, &mask, nullptr);
    ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
    ::execvp(argv[0], argv.data());
    const int error = errno;
    if (::write(trouble[1], &error, sizeof error) < 0) ::_exit(126);
    ::_exit(127);
  }
  if (started.pid < 0) started.error = errno;
  ::close(trouble[1]);
  if (started.pid > 0 && ::read(trouble[0], &started.error, sizeof started.error) > 0) {
    ::waitpid(started.pid, nullptr, 0);
  }
  ::close(trouble[0]);
  return started;
}

}  // namespace

std::string shell_quoted(const std::string& word) {
  const std::string plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:,+@%";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

std::string command_line(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& word : words) line += (line.empty() ? "" : " ") + shell_quoted(word);
  return line;
}

ChildProgram::ChildProgram(const std::vector<std::string>& words)
    : out_(memfd_create("out", MFD_CLOEXEC)), error_(memfd_create("error", MFD_CLOEXEC)) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&files, out_, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, error_, STDERR_FILENO);
  const int failed =
      posix_spawnp(&pid_, words[0].c_str(), &files, nullptr, arguments(words).data(), environ);
  posix_spawn_file_actions_destroy(&files);
  if (failed == 0) return;
  ended_ = true;
  outcome_ = {.code = 127, .out = "", .error = cat(words[0], ": ", std::strerror(failed))};
}

ChildProgram::ChildProgram(ChildProgram&& other) noexcept
    : pid_(other.pid_),
      out_(std::exchange(other.out_, -1)),
      error_(std::exchange(other.error_, -1)),
      ended_(std::exchange(other.ended_, true)),
      outcome_(std::move(other.outcome_)) {}

ChildProgram::~ChildProgram() {
  wait();
  for (const int file : {out_, error_}) {
    if (file >= 0) ::close(file);
  }
}

const Outcome& ChildProgram::wait() {
  if (ended_) return outcome_;
  ended_ = true;
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  outcome_ = {.code = code_of(status), .out = contents(out_), .error = contents(error_)};
  return outcome_;
}

namespace {

// A process and all below it, parents first.
std::vector<pid_t> tree_of(pid_t root) {
  std::vector<pid_t> found = {root};
  for (std::size_t i = 0; i < found.size(); ++i) {
    std::error_code none;
    const std::filesystem::path tasks = cat("/proc/", found[i], "/task");
    for (const auto& task : std::filesystem::directory_iterator(tasks, none)) {
      std::ifstream children(task.path() / "children");
      for (pid_t child = 0; children >> child;) found.push_back(child);
    }
  }
  return found;
}

}  // namespace

RunningProgram::RunningProgram(const std::vector<std::string>& words, const std::string& remedy) {
  sigset_t none;
  sigemptyset(&none);
  const Started started = start_apart(words, none);
  if (started.error != 0) {
    fail_input(words[0], "cannot start: ", std::strerror(started.error), "; ", remedy);
  }
  pid_ = started.pid;
}

RunningProgram::~RunningProgram() {
  kill();
}

bool RunningProgram::ended() {
  int status = 0;
  if (!ended_ && ::waitpid(pid_, &status, WNOHANG) == pid_) {
    ended_ = true;
    code_ = code_of(status);
  }
  return ended_;
}

void RunningProgram::signal(int number) {
  if (!ended()) ::kill(pid_, number);
}

void RunningProgram::kill() {
  if (ended()) return;
  for (const pid_t pid : tree_of(pid_)) ::kill(pid, SIGKILL);
  int status = 0;
  while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
  ended_ = true;
  code_ = code_of(status);
}

Outcome run_program(const std::vector<std::string>& words) {
  return ChildProgram(words).wait();
}

int run_ranks(const std::vector<std::string>& words, const std::string& remedy) {
  sigset_t handled, before;
  sigemptyset(&handled);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGCHLD}) {
    sigaddset(&handled, signal);
  }
  ::sigprocmask(SIG_BLOCK, &handled, &before);
  const Started child = start_apart(words, before);
  if (child.error != 0) {
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
    fail_input(words[0], "cannot start: ", std::strerror(child.error), "; ", remedy);
  }
  bool asked = false;
  for (int status = 0;;) {
    const int signal = ::sigwaitinfo(&handled, nullptr);
    if (signal == SIGCHLD) {
      if (::waitpid(child.pid, &status, WNOHANG) == child.pid) return code_of(status);
    } else if (signal == SIGUSR2) {
      ::kill(child.pid, SIGUSR2);
    } else if (signal > 0) {
      std::fputs(asked ? "ending the ranks\n"
                       : "stopping: the ranks finish a step and write a checkpoint; once more ends "
                         "them at once\n",
                 stderr);
      ::kill(child.pid, asked ? SIGTERM : SIGUSR1);
      asked = true;
    }
  }
}

std::string own_path() {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::filesystem::path start = self.parent_path().parent_path() / "peal";
  const bool in_bundle = ::access((self.parent_path() / "mpirun").c_str(), X_OK) == 0 &&
                         ::access(start.c_str(), X_OK) == 0;
  return in_bundle ? start.string() : self.string();
}

}  // namespace peal
