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
  CallRecord record;  // its sequence number is set
  std::int64_t step = -1;
  std::uint64_t queued = 0, started = 0, ended = 0;  // ticks; those that `state` has come to
  FlightState state = FlightState::queued;
};

// The last kCalls calls; all memory is taken and touched on construction. Not thread-safe: the
// queue's mutex guards it, which the queue holds at each of these moments anyway.
class FlightRing {
 public:
  static constexpr std::size_t kCalls = 4096;

  // Returns the time.
  std::uint64_t queued(const CallRecord& record, std::int64_t step) {
    made_ = record.sequence;
    FlightCall& call = at(made_);
    call.record = record;
    call.step = step;
    call.state = FlightState::queued;
    prefetch(at(made_ + 1));
    return call.queued = clock_.now();
  }
  void started(std::uint64_t sequence) {
    FlightCall& call = at(sequence);
    call.started = clock_.now();
    call.state = FlightState::running;
  }
  void ended(std::uint64_t sequence, bool well) {
    FlightCall& call = at(sequence);
    call.ended = clock_.now();
    call.state = well ? FlightState::finished : FlightState::failed;
    if (well) finished_ = sequence;
  }

  std::uint64_t made() const { return made_; }  // calls; their sequence numbers are 1..made
  std::uint64_t finished() const { return finished_; }
  // Copies the newest calls, oldest first, into `calls`, which has kCalls entries; how many.
  std::size_t copy_to(std::vector<FlightCall>& calls) const;
  // The same of calls numbered above `after`, up to the first that has not ended; as many as fit.
  std::size_t copy_ended(std::uint64_t after, std::span<FlightCall> into) const;
  const TickClock& clock() const { return clock_; }

 private:
  FlightCall& at(std::uint64_t sequence) { return calls_[sequence % kCalls]; }
  // The next call finds its cache lines at hand: the ring as a whole leaves the cache.
  static void prefetch(const FlightCall& call) {
    const char* at = reinterpret_cast<const char*>(&call);
    for (std::size_t line = 0; line < sizeof call; line += 64)
      __builtin_prefetch(at + line, /*rw=*/1);
  }

  std::unique_ptr<FlightCall[]> calls_ = std::make_unique<FlightCall[]>(kCalls);
  std::uint64_t made_ = 0, finished_ = 0;
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
  // The first cause is kept and written; later ones follow from it.
  void failed(const std::string& cause);
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
};

}  // namespace peal
