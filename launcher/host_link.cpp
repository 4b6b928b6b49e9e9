#include "launcher/host_link.h"

#include <cstdlib>
#include <utility>

#include "core/base/text.h"
#include "launcher/host_agent.h"
#include "launcher/hosts.h"
#include "launcher/program.h"
#include "launcher/rank_line.h"

namespace peal {
namespace {

constexpr double kConnectSeconds = 10;
constexpr auto kBeat = std::chrono::milliseconds(250);

std::vector<std::string> agent_command(const std::string& host, const std::string& token) {
  std::vector<std::string> agent = agent_words(token, host);
  agent.insert(agent.begin(), own_path());
  if (is_this_host(host)) return agent;
  std::vector<std::string> words = remote_shell();
  words.insert(words.end(), {host, "exec " + command_line(agent)});
  return words;
}

}  // namespace

HostLink::HostLink(const std::string& host, const std::string& token, double deadline)
    : agent_(std::make_unique<Dialogue>(agent_command(host, token), /*apart=*/true)),
      deadline_(deadline) {}

void HostLink::tick() {
  if (state_ == State::gone) return;
  const auto now = Clock::now();
  while (const std::optional<std::string> line = agent_->hear(now)) hear(*line);
  if (agent_->closed()) {
    const std::string said = agent_->last_error();
    lose(state_ == State::up ? "its connection broke" : said.empty() ? "cannot be reached" : said);
    return;
  }
  const double silent = std::chrono::duration<double>(now - heard_).count();
  if (silent > (state_ == State::up ? deadline_ : kConnectSeconds)) {
    lose(cat("has not answered for ", static_cast<int>(silent), " s"));
    return;
  }
  if (state_ == State::up && now - said_ >= kBeat) {
    said_ = now;
    say(".");
  }
}

void HostLink::hear(const std::string& line) {
  heard_ = Clock::now();
  if (line == "ready") state_ = State::up;
  if (line == "ready" || line == ".") return;
  if (line == "lost") {
    ends_.push_back(RankLines::kNoWord);
  } else if (line.starts_with("lost ")) {
    ends_.push_back(std::atoi(line.c_str() + 5));
  } else {
    answer_ = line;
  }
}

void HostLink::lose(std::string why) {
  state_ = State::gone;
  why_ = std::move(why);
  agent_.reset();
}

std::optional<std::string> HostLink::take_answer(const std::string& word) {
  if (!answer_.starts_with(word)) return std::nullopt;
  std::string rest = std::exchange(answer_, "").substr(word.size());
  if (rest.starts_with(" ")) rest.erase(0, 1);
  return rest;
}

}  // namespace peal
