#include "launcher/host_pool.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "core/base/error.h"

namespace peal {
namespace {

constexpr auto kRetry = std::chrono::seconds(2);
constexpr auto kReadHosts = std::chrono::seconds(1);

}  // namespace

HostPool::HostPool(Options options, Say say)
    : options_(std::move(options)), say_(std::move(say)), faults_(options_.forgive) {
  for (const HostSlots& host : options_.hosts) {
    members_.emplace_back();
    members_.back().host = host;
  }
}

HostPool::Member* HostPool::find(const std::string& host) {
  return const_cast<Member*>(std::as_const(*this).find(host));
}

const HostPool::Member* HostPool::find(const std::string& host) const {
  for (const Member& member : members_) {
    if (member.host.name == host) return &member;
  }
  return nullptr;
}

void HostPool::tick() {
  if (options_.source && Clock::now() - read_ >= kReadHosts) read_hosts();
  for (Member& member : members_) tend(member);
}

// A file that somebody is just writing, or a wrong one, leaves the hosts as they are.
void HostPool::read_hosts() {
  read_ = Clock::now();
  std::vector<HostSlots> hosts;
  try {
    auto newer = options_.source->newer();
    if (!newer) return;
    hosts = std::move(*newer);
  } catch (const Error& error) {
    say_(cat(error.what(), "; the hosts stay as they are"));
    return;
  }
  for (Member& member : members_) member.named = false;
  for (const HostSlots& host : hosts) {
    Member* member = find(host.name);
    if (member == nullptr) {
      members_.emplace_back();
      member = &members_.back();
    }
    member->host = host;
    member->named = true;
  }
  for (Member& member : members_) {
    if (!member.named) faults_.forgive(member.host.name);
  }
  say_(cat("hosts as ", options_.source->name(), " names them now: ", host_list(hosts)));
}

void HostPool::tend(Member& member) {
  const std::string& name = member.host.name;
  if (!member.link) {
    if (!member.named || faults_.is_left_out(name) || Clock::now() < member.retry) return;
    member.link = std::make_unique<HostLink>(name, options_.token, options_.deadline);
    return;
  }
  const bool was_up = member.link->state() == HostLink::State::up;
  member.link->tick();
  if (member.link->state() == HostLink::State::gone) {
    lose(member, member.link->why_gone());
  } else if (!was_up && member.link->state() == HostLink::State::up) {
    if (member.was_up || !member.why.empty()) say_(cat("host ", name, " answers"));
    member.tried = member.was_up = true;
    member.why.clear();
    if (!run_.empty()) member.link->say("run " + run_);
  }
}

void HostPool::lose(Member& member, const std::string& why) {
  if (member.why.empty()) say_(cat("host ", member.host.name, ": ", why));
  member.why = why;
  member.link.reset();
  member.tried = true;
  member.retry = Clock::now() + kRetry;
}

void HostPool::fault(const std::string& host, const std::string& why) {
  const double now = std::chrono::duration<double>(Clock::now() - begin_).count();
  if (faults_.count(host, now, why)) {
    say_(cat("host ", host, " is left out: it failed twice within ", options_.forgive, " s"));
  }
}

void HostPool::leave_out(const std::string& host, const std::string& why) {
  faults_.leave_out(host, why);
  say_(cat("host ", host, " is left out: ", why));
}

std::vector<HostSlots> HostPool::available() const {
  std::vector<HostSlots> list;
  for (const Member& member : members_) {
    const bool up = member.link && member.link->state() == HostLink::State::up;
    if (up && member.named && !faults_.is_left_out(member.host.name)) list.push_back(member.host);
  }
  return list;
}

bool HostPool::is_named(const std::string& host) const {
  const Member* member = find(host);
  return member != nullptr && member->named && !faults_.is_left_out(host);
}

bool HostPool::any_connecting() const {
  return std::any_of(members_.begin(), members_.end(),
                     [](const Member& member) { return member.named && !member.tried; });
}

HostLink* HostPool::link(const std::string& host) {
  Member* member = find(host);
  const bool up = member != nullptr && member->link && member->link->state() == HostLink::State::up;
  return up ? member->link.get() : nullptr;
}

std::string HostPool::why_lost(const std::string& host) const {
  const Member* member = find(host);
  return member != nullptr ? member->why : "";
}

std::vector<std::pair<std::string, std::string>> HostPool::ask(const std::string& line,
                                                               const std::string& word,
                                                               double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  std::vector<Member*> waiting;
  for (Member& member : members_) {
    if (link(member.host.name) == nullptr) continue;
    member.link->take_answer(word);
    member.link->say(line);
    waiting.push_back(&member);
  }
  std::vector<std::pair<std::string, std::string>> answers;
  while (!waiting.empty() && Clock::now() < deadline) {
    std::erase_if(waiting, [&](Member* member) {
      tend(*member);
      if (!member->link) return true;
      const std::optional<std::string> answer = member->link->take_answer(word);
      if (answer) answers.emplace_back(member->host.name, *answer);
      return answer.has_value();
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  for (Member* member : waiting) lose(*member, cat("has not answered for ", seconds, " s"));
  return answers;
}

void HostPool::set_run(const std::string& number) {
  run_ = number;
  for (Member& member : members_) {
    if (link(member.host.name) != nullptr) member.link->say("run " + run_);
  }
}

}  // namespace peal
