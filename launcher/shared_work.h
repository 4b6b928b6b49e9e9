// Ranks that work apart, each on its own share, and hear of one another now and then: how far all
// are, whether one has failed, whether somebody asked to stop.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "comm/communicator.h"

namespace peal {

// Collective: every rank makes one, calls go_on() between pieces of work, and end() when its share
// is done or go_on() said no. A meeting is a small all_reduce, four times a second and at the end;
// nobody waits for it who has work.
class SharedWork {
 public:
  // `show`, on every rank, is told the units of work that all ranks together have done.
  SharedWork(Communicator& comm, std::function<void(std::int64_t)> show);

  // `done`: units that this rank has done. False when all stop.
  bool go_on(std::int64_t done);

  // Runs `work`, which calls go_on(), and waits for the others'. What any of them throws, all
  // throw. False when the work was stopped by a signal, on every rank alike.
  bool run(const std::function<void()>& work);

 private:
  using Clock = std::chrono::steady_clock;

  void meet();      // begins a meeting, or ends one that all have come to
  void conclude();  // of a meeting that has ended

  Communicator& comm_;
  std::function<void(std::int64_t)> show_;
  Stream stream_;
  struct Facts {
    std::int64_t done = 0, ended = 0, failed = 0, stop = 0;
  } mine_, all_;
  Request request_;
  bool meeting_ = false, over_ = false, ended_ = false, failed_ = false;
  std::int64_t done_ = 0;
  Clock::time_point next_;
};

}  // namespace peal
