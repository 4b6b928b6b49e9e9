// How a call is carried out; the queue above it is the same for every backend.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "comm/call.h"
#include "comm/cost_model.h"

namespace peal {

class Family;
class Transport;
void warn_on_stderr(const std::string& message);

// Who and where a rank is, and what its waits look at.
struct Watch {
  int rank = 0;
  std::vector<std::string> names;        // of every rank: "rank 3 (node7)"
  std::vector<int> numbers;              // of every rank where the job began; empty: as here
  std::atomic<double> deadline{300};     // seconds
  std::atomic<std::int64_t> step{-1};    // for messages; -1: none yet
  std::atomic<bool> closing{false};      // the communicator is being destroyed
  std::atomic<bool> spin{false};         // whether a core is free to spin on
  std::atomic<double> waited_before{0};  // seconds, elsewhere, before the wait of a late message

  std::function<void(const std::string&)> warn = warn_on_stderr;
  Family* family = nullptr;  // null in tests of a transport alone

  // Of family.h, for the waits of `here`.
  const Cause* family_failure(const Transport& here) const;
  void say_waiting(const Transport& here, bool long_since) const;

  int ranks() const { return static_cast<int>(names.size()); }
  std::string label(int rank) const;  // "rank 3", where the job began
  std::string place() const;          // "rank 3 step 1203"
};

// Seconds for which a rank that has failed tries to tell its peers: a message leaves at once, but
// to a peer that is stopped or gone never.
inline constexpr double kTimeToTell = 0.5;

// Carries out calls one at a time, on whichever thread the queue chooses.
class Transport {
 public:
  virtual ~Transport() = default;
  // The call that run() will be given next; may do as much of it as needs no waiting, so that peers
  // need not wait for the rest. At most once a call, while no call is run.
  virtual void begin(const Call&) {}
  // Ends the call if it was begun and its peers have come, or with `spin` come within a microsecond
  // or so: the queue holds its mutex meanwhile. False: it is for run(), as is every call that
  // fails.
  virtual bool end_begun(const Call&, bool /*spin*/) { return false; }
  // Returns when this rank's memory may be used again and holds the result.
  virtual void run(const Call& call) = 0;
  // Any thread; the first cause of all ranks wins. Does not wait for peers.
  virtual void abort(const Cause& cause) = 0;
  // Any thread: whether what abort() tells peers has left this rank. Called until it has, or for
  // kTimeToTell.
  virtual bool told() { return true; }
  // Any thread: the cause that this rank or a peer gave, as far as it is here; null: none.
  virtual const Cause* failure() = 0;
  // Any thread: whether this rank has waited for long, not in a call that all ranks make here but
  // in one of another communicator or of a pair. Peers that wait for it here then blame others.
  virtual void wait_elsewhere(bool long_since) = 0;
  // The way that an all-reduce goes here.
  virtual std::string_view way(const Call& call) = 0;

  virtual void leave() {}  // Watch::closing was set: what waits elsewhere gives up, too

  // Whether run() only starts a call, which then goes on on a device.
  virtual bool only_starts() const { return false; }
  // Of a call that was started: whether it has ended. Any thread.
  virtual bool ended(const Call&) const { return true; }
  // Called now and then with the oldest that has not: throws when it never will. Not beside run().
  virtual void look_at(const Call&) {}
};

// A wait that spins briefly, then yields, then sleeps, and knows when it is late.
class Patience {
 public:
  explicit Patience(const Watch& watch) : watch_(watch) {}

  // Called again and again while nothing has come. True when it is time to sleep.
  bool exhausted();
  double seconds() const;
  // Whether the deadline has passed. Called at every look: a rank that was itself stopped in
  // between does not count that time, lest it blames its peers before it has heard them.
  bool late();
  // Once: that half of the deadline has passed.
  bool long_since();
  bool said_long() const { return said_long_; }

 private:
  using Clock = std::chrono::steady_clock;
  const Watch& watch_;
  Clock::time_point start_ = Clock::now(), looked_ = start_;
  Clock::duration stopped_{0};
  bool said_long_ = false;
  int rounds_ = 0;
  bool tired_ = false;
};

// How long this rank stood still in the middle of a call: stopped by a signal, or its machine was.
class Standstill {
 public:
  void begin();  // of the call
  void look();   // again and again in it
  // What it says of itself when that was longer than its peers wait, which then do not answer any
  // more; empty: it was not.
  std::string blame(const Watch& watch) const;

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point looked_;
  Clock::duration longest_{};
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

// Said of ranks that are late because they wait in other calls, if no other rank is late.
inline constexpr std::string_view kAllElsewhere =
    "the ranks that have not come wait in calls of a pair or of another communicator: ranks must "
    "make those in one order, too";

// `rank 5 last finished "bucket 6"`; an empty name: nothing yet.
std::string last_finished(const std::string& rank_name, std::string_view call_name);

}  // namespace peal
