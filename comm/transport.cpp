#include "comm/transport.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "core/base/error.h"

namespace peal {
namespace {

constexpr double kSpinSeconds = 40e-6;
constexpr int kBriskRounds = 64;
constexpr int kYields = 2;  // each may cost a time slice where cores are scarce
// Between two looks of a rank that runs: far more than any nap in a wait.
constexpr std::chrono::milliseconds kLongestNap{200};

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

}  // namespace

std::string Watch::label(int r) const {
  return cat("rank ", numbers.empty() ? r : numbers[static_cast<std::size_t>(r)]);
}

void warn_on_stderr(const std::string& message) {
  std::fprintf(stderr, "peal: %s\n", message.c_str());
}

std::string Watch::place() const {
  const std::int64_t now = step.load(std::memory_order_relaxed);
  return now < 0 ? label(rank) : cat(label(rank), " step ", now);
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
  return std::chrono::duration<double>(Clock::now() - start_ - stopped_).count();
}

bool Patience::late() {
  const Clock::time_point now = Clock::now();
  stopped_ += std::max<Clock::duration>(now - looked_ - kLongestNap, Clock::duration::zero());
  looked_ = now;
  return seconds() > watch_.deadline.load(std::memory_order_relaxed);
}

bool Patience::long_since() {
  if (said_long_ || seconds() < watch_.deadline.load(std::memory_order_relaxed) / 2) return false;
  return said_long_ = true;
}

void Standstill::begin() {
  looked_ = Clock::now();
  longest_ = {};
}

void Standstill::look() {
  const Clock::time_point now = Clock::now();
  longest_ = std::max(longest_, now - looked_);
  looked_ = now;
}

std::string Standstill::blame(const Watch& watch) const {
  const double seconds = std::chrono::duration<double>(longest_).count();
  if (seconds < watch.deadline.load(std::memory_order_relaxed)) return {};
  return cat(watch.label(watch.rank), " was itself stopped for ", std::round(seconds * 10) / 10,
             " s in it: its peers have given it up");
}

std::string late_message(const Watch& watch, const CallRecord& call, const std::string& late) {
  const double seconds = watch.deadline.load() + watch.waited_before.load();
  return cat("waited ", seconds, " s in ", short_name(call), "; ", late);
}

Cause count_mismatch(const Watch& watch, const CallRecord& call, Pair ranks, std::int64_t sent,
                     std::int64_t expected) {
  const auto name = [&](int rank) { return watch.names[static_cast<std::size_t>(rank)]; };
  return make_cause(
      watch.rank, exit_code(ErrorKind::numeric), "ranks out of step",
      cat("call ", call.sequence, " is ", long_name(call), " but ", name(ranks.from), " sends ",
          sent, " elements to ", name(ranks.to), ", which expects ", expected));
}

Cause pair_mismatch(const Watch& watch, const CallRecord& mine, const CallRecord& theirs) {
  const int peer = mine.parameter;
  const std::string me =
      cat(long_name(mine), " on ", watch.names[static_cast<std::size_t>(watch.rank)]);
  const std::string other =
      cat(long_name(theirs), " on ", watch.names[static_cast<std::size_t>(peer)]);
  const bool first = watch.rank < peer;
  return make_cause(watch.rank, exit_code(ErrorKind::numeric), "ranks out of step",
                    cat("call ", mine.sequence, " between two ranks is ", first ? me : other,
                        " but ", first ? other : me, "; one must receive what the other sends"));
}

std::string last_finished(const std::string& rank_name, std::string_view call_name) {
  if (call_name.empty()) return cat(rank_name, " has finished no call yet");
  return cat(rank_name, " last finished \"", call_name, "\"");
}

}  // namespace peal
