// The flight recorder: what a rank's last calls were and when, always on.
//
// It is written to `<directory>/flight-rank-<rank>.jsonl` when the communicator fails and on
// SIGUSR2; no directory, no file. README.md describes the file; `peal inspect flight` reads it.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "comm/tick_clock.h"
#include "comm/transport.h"

namespace peal {

enum class FlightState : std::uint8_t { queued, running, finished, failed };

struct alignas(64) FlightCall {
  CallRecord record;  // with its number: of the calls that all ranks make, or of its pair
  std::int64_t step = -1;
  std::uint64_t queued = 0, started = 0, ended = 0;  // ticks; those that `state` has come to
  FlightState state = FlightState::queued;
};

// The last kCalls calls of both kinds in the order in which this rank made them: entry 1 is the
// first. All memory is taken and touched on construction. Not thread-safe: the queue's mutex guards
// it, which the queue holds at each of these moments anyway.
class FlightRing {
 public:
  static constexpr std::size_t kCalls = 4096;

  // Returns the time.
  std::uint64_t queued(const CallRecord& record, std::int64_t step) {
    FlightCall& call = at(++entries_);
    call.record = record;
    call.step = step;
    call.state = FlightState::queued;
    prefetch(at(entries_ + 1));
    return call.queued = clock_.now();
  }
  void started(std::uint64_t entry) {
    FlightCall& call = at(entry);
    call.started = clock_.now();
    call.state = FlightState::running;
  }
  void ended(std::uint64_t entry, bool well) {
    FlightCall& call = at(entry);
    call.ended = clock_.now();
    call.state = well ? FlightState::finished : FlightState::failed;
    if (well) ended_ = entry;
  }

  std::uint64_t entries() const { return entries_; }
  std::uint64_t ended() const { return ended_; }  // of them, well
  // Copies the newest calls, oldest first, into `calls`, which has kCalls entries; how many.
  std::size_t copy_to(std::vector<FlightCall>& calls) const;
  // The same of entries above `seen`, up to the first that has not ended, as many as fit; `seen`
  // becomes the last one's.
  std::size_t copy_ended(std::uint64_t& seen, std::span<FlightCall> into) const;
  const TickClock& clock() const { return clock_; }

 private:
  FlightCall& at(std::uint64_t entry) { return calls_[entry % kCalls]; }
  // The next call finds its cache lines at hand: the ring as a whole leaves the cache.
  static void prefetch(const FlightCall& call) {
    const char* at = reinterpret_cast<const char*>(&call);
    for (std::size_t line = 0; line < sizeof call; line += 64)
      __builtin_prefetch(at + line, /*rw=*/1);
  }

  std::unique_ptr<FlightCall[]> calls_ = std::make_unique<FlightCall[]>(kCalls);
  std::uint64_t entries_ = 0, ended_ = 0;
  TickClock clock_;
};

// A ring and the file that it is written to.
class FlightRecorder {
 public:
  // `queue_mutex` guards ring(); whoever calls the other functions does not hold it.
  FlightRecorder(const Watch& watch, std::mutex& queue_mutex);
  ~FlightRecorder();
  FlightRecorder(const FlightRecorder&) = delete;
  FlightRecorder& operator=(const FlightRecorder&) = delete;

  FlightRing& ring() { return ring_; }

  // Removes the files of an earlier run there. Empty: no more files.
  void set_directory(const std::filesystem::path& directory);
  // The first cause is kept and written; later ones follow from it. `elsewhere`: this rank was in a
  // call of another communicator then.
  void failed(const std::string& cause, bool elsewhere);
  void write(std::string_view why);  // an error is told, not thrown
  void warn(const std::string& message) { watch_.warn(message); }

 private:
  void write_file(std::string_view why);
  std::string text(std::string_view why);

  const Watch& watch_;
  std::mutex& queue_mutex_;
  FlightRing ring_;
  std::mutex file_mutex_;  // of all below; taken before the queue's
  std::filesystem::path directory_;
  std::string failure_;
  bool elsewhere_ = false;
};

}  // namespace peal
