#include "comm/family.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "core/base/error.h"

namespace peal {

void Family::join(Transport& transport, FlightRecorder& flight) {
  const std::lock_guard lock(mutex_);
  members_.push_back({&transport, &flight});
}

void Family::leave(const Transport& transport) {
  const std::lock_guard lock(mutex_);
  std::erase_if(members_, [&](const Member& member) { return member.transport == &transport; });
}

const Cause* Family::look(const Transport& here) {
  if (const Cause* known = failure()) return known;
  const std::lock_guard lock(mutex_);
  hear(&here);
  return failure();
}

const Cause& Family::fail(const Cause& cause, const Transport* here) {
  const std::lock_guard lock(mutex_);
  hear(here);  // a peer may have been the first
  tell(cause, here);
  return cause_;
}

void Family::hear(const Transport* here) {
  for (const Member& member : members_) {
    if (const Cause* heard = member.transport->failure()) tell(*heard, here);
  }
}

void Family::tell(const Cause& cause, const Transport* here) {
  if (failure() != nullptr) return;
  cause_ = cause;
  failed_.store(true, std::memory_order_release);
  for (const Member& member : members_) member.transport->abort(cause_);
  wait_until_told();
  if (cause_.exit_code == exit_code(ErrorKind::input)) return;  // a flight tells nothing of it
  for (const Member& member : members_) {
    const bool elsewhere = here != nullptr && member.transport != here;
    member.flight->failed(cat(cause_.where.data(), ": ", cause_.message.data()), elsewhere);
  }
}

// Once for all members: a peer that takes nothing takes nothing in any of them.
void Family::wait_until_told() {
  using Clock = std::chrono::steady_clock;
  const auto told = [](const Member& member) { return member.transport->told(); };
  const auto end = Clock::now() + std::chrono::duration<double>(kTimeToTell);
  while (!std::all_of(members_.begin(), members_.end(), told) && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

void Family::waits(const Transport& here, bool long_since) {
  const std::lock_guard lock(mutex_);
  for (const Member& member : members_) {
    if (member.transport != &here) member.transport->wait_elsewhere(long_since);
  }
}

const Cause* Watch::family_failure(const Transport& here) const {
  return family != nullptr ? family->look(here) : nullptr;
}

void Watch::say_waiting(const Transport& here, bool long_since) const {
  if (family != nullptr) family->waits(here, long_since);
}

}  // namespace peal
