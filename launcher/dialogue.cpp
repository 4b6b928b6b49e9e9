#include "launcher/dialogue.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>

#include "core/base/text.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

int milliseconds_until(Dialogue::Time deadline) {
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
  return static_cast<int>(std::clamp<decltype(left)>(left, 0, 1 << 30));
}

void close_file(int& file) {
  if (file >= 0) ::close(file);
  file = -1;
}

}  // namespace

Dialogue::Dialogue(const std::vector<std::string>& words, bool apart)
    : error_(memfd_create("error", MFD_CLOEXEC)) {
  int input[2] = {-1, -1}, output[2] = {-1, -1};
  // A socket and not a pipe: to write to a program that has ended is then no signal.
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, input) != 0 ||
      ::pipe2(output, O_CLOEXEC) != 0) {
    start_trouble_ = cat(words[0], ": ", std::strerror(errno));
  } else {
    std::vector<char*> argv;
    for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_adddup2(&files, input[1], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, output[1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, error_, STDERR_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    if (apart) {
      sigset_t none;
      sigemptyset(&none);
      posix_spawnattr_setsigmask(&attributes, &none);
      posix_spawnattr_setpgroup(&attributes, 0);
      posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    }
    const int failed = posix_spawnp(&pid_, argv[0], &files, &attributes, argv.data(), environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    if (failed != 0) start_trouble_ = cat(words[0], ": ", std::strerror(failed));
  }
  close_file(input[1]);
  close_file(output[1]);
  in_ = input[0];
  out_ = output[0];
  if (start_trouble_.empty()) return;
  pid_ = -1;
  ended_ = true;
  code_ = 127;
}

Dialogue::~Dialogue() {
  if (!ended_) {
    ::kill(pid_, SIGKILL);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  for (int* file : {&in_, &out_, &error_}) close_file(*file);
}

void Dialogue::say(std::string line) {
  line += '\n';
  for (std::size_t sent = 0; in_ >= 0 && sent < line.size();) {
    const ssize_t n =
        ::send(in_, line.data() + sent, line.size() - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) close_file(in_);
    if (n > 0) sent += static_cast<std::size_t>(n);
  }
}

bool Dialogue::read_more(Time deadline) {
  pollfd file{.fd = out_, .events = POLLIN, .revents = 0};
  const int ready = ::poll(&file, 1, milliseconds_until(deadline));
  if (ready < 0 && errno == EINTR) return true;
  if (ready <= 0) return false;
  char block[4096];
  const ssize_t n = ::read(out_, block, sizeof block);
  if (n < 0 && errno == EINTR) return true;
  if (n <= 0) {
    close_file(out_);
    return false;
  }
  heard_.append(block, static_cast<std::size_t>(n));
  return true;
}

std::optional<std::string> Dialogue::hear(Time deadline) {
  while (true) {
    const std::size_t end = heard_.find('\n');
    if (end != std::string::npos) {
      std::string line = heard_.substr(0, end);
      heard_.erase(0, end + 1);
      return line;
    }
    if (heard_.size() > kLongestLine) {
      heard_.clear();
      close_file(out_);
    }
    if (out_ < 0 || !read_more(deadline)) return std::nullopt;
  }
}

bool Dialogue::finish(Time deadline) {
  close_file(in_);
  while (!ended_) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      ended_ = true;
      code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    } else if (Clock::now() >= deadline) {
      return false;
    } else {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
  }
  return true;
}

void Dialogue::send_signal(int number) {
  if (!ended_) ::kill(pid_, number);
}

std::string Dialogue::error() const {
  if (!start_trouble_.empty()) return start_trouble_;
  std::string text;
  char block[4096];
  ssize_t n = 0;
  while (text.size() < kLongestLine &&
         (n = ::pread(error_, block, sizeof block, static_cast<off_t>(text.size()))) > 0) {
    text.append(block, static_cast<std::size_t>(n));
  }
  return text;
}

std::string Dialogue::last_error() const {
  std::string text = error();
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
    text.pop_back();
  }
  return text.substr(text.rfind('\n') + 1);
}

}  // namespace peal
