#include "comm/transport.h"

#include <sched.h>

#include "core/base/error.h"

namespace peal {
namespace {

constexpr double kSpinSeconds = 40e-6;
constexpr int kBriskRounds = 64;
constexpr int kYields = 2;  // each may cost a time slice where cores are scarce

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

std::string Watch::place() const {
  const std::int64_t now = step.load(std::memory_order_relaxed);
  return now < 0 ? cat("rank ", rank) : cat("rank ", rank, " step ", now);
}

bool Patience::exhausted() {
  if (tired_) return true;
  if (watch_.spin.load(std::memory_order_relaxed)) {
    // A pause is as long as a message between cores takes: none while one may be under way.
    for (int i = 0; rounds_ >= kBriskRounds && i < 16; ++i) pause();
    if (++rounds_ % 4 == 0) tired_ = seconds() > kSpinSeconds;
  } else {
    ::sched_yield();
    tired_ = ++rounds_ >= kYields;
  }
  return tired_;
}

double Patience::seconds() const {
  return std::chrono::duration<double>(Clock::now() - start_).count();
}

std::string late_message(const Watch& watch, const CallRecord& call, const std::string& late) {
  return cat("waited ", watch.deadline.load(), " s in ", short_name(call), "; ", late);
}

std::string last_finished(const std::string& rank_name, std::string_view call_name) {
  if (call_name.empty()) return cat(rank_name, " has finished no call yet");
  return cat(rank_name, " last finished \"", call_name, "\"");
}

}  // namespace peal
