// The supervisor's side of an agent on a host (host_agent.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/dialogue.h"

namespace peal {

class HostLink {
 public:
  using Clock = std::chrono::steady_clock;

  // `deadline`: seconds without a word after which the host counts as out of reach.
  HostLink(const std::string& host, const std::string& token, double deadline);

  enum class State : std::uint8_t { connecting, up, gone };
  State state() const { return state_; }
  const std::string& why_gone() const { return why_; }  // "does not answer since 5 s"

  void tick();  // reads what has come, says that this side lives; never waits
  void say(const std::string& line) {
    if (agent_) agent_->say(line);
  }
  // Once each: how ranks have ended since (RankLines::take_ends); the answer that began with this
  // word, without it.
  std::vector<int> take_ends() { return std::exchange(ends_, {}); }
  std::optional<std::string> take_answer(const std::string& word);

 private:
  void hear(const std::string& line);
  void lose(std::string why);

  std::unique_ptr<Dialogue> agent_;
  double deadline_;
  State state_ = State::connecting;
  std::string why_, answer_;
  std::vector<int> ends_;
  Clock::time_point heard_ = Clock::now(), said_{};
};

}  // namespace peal
