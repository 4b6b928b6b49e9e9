#include "launcher/host_agent.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/config/job.h"
#include "core/state/memory_state.h"
#include "launcher/rank_line.h"
#include "launcher/rank_processes.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr auto kAgentBeat = milliseconds(250);
constexpr auto kLook = milliseconds(100);
constexpr auto kSilence = std::chrono::seconds(300);  // the supervisor is out of reach for good
constexpr double kKillSeconds = 3, kGraceSeconds = 20;

class HostAgent {
 public:
  explicit HostAgent(std::string token) : token_(std::move(token)), lines_(token_) {}

  void serve() {
    std::signal(SIGPIPE, SIG_IGN);
    ::fcntl(STDOUT_FILENO, F_SETFL, O_NONBLOCK);
    say("ready");
    while (listen()) {
      const auto now = Clock::now();
      if (now - heard_ > kSilence) break;
      if (now - said_ >= kAgentBeat) say(".");
    }
    const auto deadline = Clock::now() + std::chrono::duration<double>(kGraceSeconds);
    while (!rank_processes(token_).empty() && Clock::now() < deadline) {
      std::this_thread::sleep_for(kLook);
    }
    kill_ranks(token_, kKillSeconds);
    forget();
  }

 private:
  // Takes what has come; false when the supervisor will say nothing any more.
  bool listen() {
    files_.assign(1, {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0});
    lines_.add_files(files_);
    ::poll(files_.data(), files_.size(), static_cast<int>(kLook.count()));
    tell_ends();
    if (files_[0].revents == 0) return true;
    char block[4096];
    const ssize_t n = ::read(STDIN_FILENO, block, sizeof block);
    if (n <= 0) return false;
    heard_ = Clock::now();
    pending_.append(block, static_cast<std::size_t>(n));
    for (std::size_t end = 0; (end = pending_.find('\n')) != std::string::npos;) {
      answer(pending_.substr(0, end));
      pending_.erase(0, end + 1);
    }
    return true;
  }

  void answer(const std::string& line) {
    const std::size_t space = line.find(' ');
    const std::string word = line.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : line.substr(space + 1);
    if (word == "run") {
      run_ = std::strtoull(rest.c_str(), nullptr, 16);
    } else if (word == "end") {
      tell_ends();  // of today's ranks, before they are ended by this
      const int left = kill_ranks(rest, kKillSeconds);
      lines_.forget_ranks();
      say(cat("ended ", left));
    } else if (word == "newest") {
      const std::optional<MemoryState> state = newest();
      say(cat("newest ", state ? state->step() : -1));
    } else if (word == "save") {
      say(save(rest));
    } else if (word == "forget") {
      forget();
      say("forgotten");
    }
  }

  std::optional<MemoryState> newest() const {
    if (run_ == 0) return std::nullopt;
    try {
      return MemoryState::open(memory_state_path(run_), [](const std::string&) {});
    } catch (const Error&) {
      return std::nullopt;
    }
  }

  std::string save(const std::string& checkpoints) const {
    try {
      const std::optional<MemoryState> state = newest();
      if (!state) return "failed: no state is there";
      const JobSpec job = parse_job(state->info().job, state->where());
      CheckpointWriter writer({.directory = checkpoints, .keep = job.checkpoint().keep()},
                              state->weights(), state->optimizer(), state->compression());
      writer.save({.step = state->step(),
                   .epoch = state->epoch(),
                   .job = state->info().job,
                   .job_hash = state->info().job_hash,
                   .metrics = {}});
      writer.wait();
      return cat("saved ", state->step());
    } catch (const Error& error) {
      return cat("failed: ", error.what());
    }
  }

  void forget() const {
    if (run_ != 0 && rank_processes(token_.substr(0, token_.find('-'))).empty()) {
      remove_memory_state(run_);
    }
  }

  void tell_ends() {
    for (const int code : lines_.take_ends()) {
      say(code == RankLines::kNoWord ? "lost" : cat("lost ", code));
    }
  }

  // Never waits: a supervisor that does not read now has its own view of this host soon.
  void say(const std::string& line) {
    said_ = Clock::now();
    const std::string text = line + "\n";
    if (::write(STDOUT_FILENO, text.data(), text.size()) < 0) return;
  }

  std::string token_, pending_;
  std::uint64_t run_ = 0;
  RankLines lines_;
  std::vector<pollfd> files_;
  Clock::time_point heard_ = Clock::now(), said_{};
};

}  // namespace

void serve_as_host_agent(const std::string& token, const std::string& host) {
  end_processes(agent_words(token, host));
  HostAgent(token).serve();
}

std::vector<std::string> agent_words(const std::string& token, const std::string& host) {
  return {"host-agent", "--token", token, "--host", host};
}

}  // namespace peal
