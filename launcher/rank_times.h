// What each rank's steps take, known to all ranks: who is slower than the others, and how often a
// state can be kept.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace peal {

// Seconds; means over a window of steps, the longest left out.
struct RankTimes {
  double compute = 0;  // forward and backward, without waiting for others
  double step = 0;     // all of a step
  double save = 0;     // one state in memory
};

struct Straggler {
  int rank = -1;
  double factor = 0;  // its compute time over the median of the others'
};

// The slowest rank, when it takes 1.5 times what the others do.
std::optional<Straggler> find_straggler(std::span<const RankTimes> ranks);

// Every kWindow steps ranks exchange their times. It begins after a step and is taken up after the
// next, so that no step waits for it. Cost: an all-gather of 24 bytes a rank.
class TimesExchange {
 public:
  static constexpr std::size_t kWindow = 10;

  explicit TimesExchange(Communicator& comm);

  // After every step, on all ranks; `save` of the newest state. True: all() is new.
  bool add(double compute, double step, double save);
  std::span<const RankTimes> all() const { return all_; }  // by rank; empty before the first
  // Named in two windows, one after the other: one slow step in between is nothing.
  const std::optional<Straggler>& straggler() const { return straggler_; }
  void finish();  // what has begun; before this and `comm` go

 private:
  void judge();

  Communicator& comm_;
  Stream stream_;
  std::array<double, kWindow> compute_{}, step_{};
  std::size_t filled_ = 0;
  RankTimes mine_;
  std::vector<RankTimes> arriving_, all_;
  std::optional<Request> under_way_;
  std::optional<Straggler> suspect_, straggler_;
};

}  // namespace peal
