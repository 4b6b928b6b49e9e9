// How a call is carried out; the queue above it is the same for every backend.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/call.h"

namespace peal {

void warn_on_stderr(const std::string& message);

// Who and where a rank is, and what its waits look at.
struct Watch {
  int rank = 0;
  std::vector<std::string> names;      // of every rank: "rank 3 (node7)"
  std::vector<int> numbers;            // of every rank where the job began; empty: as here
  std::atomic<double> deadline{300};   // seconds
  std::atomic<std::int64_t> step{-1};  // for messages; -1: none yet
  std::atomic<bool> closing{false};    // the communicator is being destroyed
  std::atomic<bool> spin{false};       // whether a core is free to spin on

  std::function<void(const std::string&)> warn = warn_on_stderr;

  int ranks() const { return static_cast<int>(names.size()); }
  std::string label(int rank) const;  // "rank 3", where the job began
  std::string place() const;          // "rank 3 step 1203"
};

// Carries out calls one at a time, on whichever thread the queue chooses.
class Transport {
 public:
  virtual ~Transport() = default;
  // The call that run() will be given next; may do as much of it as needs no waiting, so that peers
  // need not wait for the rest. At most once a call, while no call is run.
  virtual void begin(const Call&) {}
  // Returns when this rank's memory may be used again and holds the result.
  virtual void run(const Call& call) = 0;
  // Any thread; the first cause of all ranks wins.
  virtual void abort(const Cause& cause) = 0;
};

// A wait that spins briefly, then yields, then sleeps, and knows when it is late.
class Patience {
 public:
  explicit Patience(const Watch& watch) : watch_(watch) {}

  // Called again and again while nothing has come. True when it is time to sleep.
  bool exhausted();
  double seconds() const;
  bool late() const { return seconds() > watch_.deadline.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;
  const Watch& watch_;
  Clock::time_point start_ = Clock::now();
  int rounds_ = 0;
  bool tired_ = false;
};

// `waited 60 s in all_reduce "bucket 7"; <late>`
std::string late_message(const Watch& watch, const CallRecord& call, const std::string& late);

// The cause of a ragged all_to_all in which two ranks disagree on what one sends the other.
struct Pair {
  int from = 0, to = 0;
};
Cause count_mismatch(const Watch& watch, const CallRecord& call, Pair ranks, std::int64_t sent,
                     std::int64_t expected);

// The cause of a send and a recv that do not match.
Cause pair_mismatch(const Watch& watch, const CallRecord& mine, const CallRecord& theirs);

// `rank 5 last finished "bucket 6"`; an empty name: nothing yet.
std::string last_finished(const std::string& rank_name, std::string_view call_name);

}  // namespace peal
