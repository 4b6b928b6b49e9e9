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

// Seconds; means over a window of steps.
struct RankTimes {
  double compute = 0;  // forward and backward of a virtual rank, without waiting for others
  double step = 0;     // all of a step, the longest left out
  double save = 0;     // one state in memory
};

struct Straggler {
  int rank = -1;
  double factor = 0;  // its compute time over the median of the others'
};

// The slowest of these compute times, when it is 1.5 times the median of the others.
std::optional<Straggler> find_straggler(std::span<const double> compute);

// Who is slow, and not only unlucky for a moment: the same rank in three spans of time, one after
// the other; it is named until three spans in a row do not show it. A span is a quarter of a
// second, or a window of steps where that is longer: in time, a scheduler makes all ranks alike
// wait for other programs.
class StragglerRule {
 public:
  void add(std::span<const RankTimes> ranks, std::size_t steps);  // a window of so many steps
  const std::optional<Straggler>& straggler() const { return named_; }

 private:
  void judge(const std::optional<Straggler>& slow);

  std::vector<double> compute_;  // by rank, of the span so far
  double seconds_ = 0;
  int suspect_ = -1, in_a_row_ = 0, without_ = 0;
  std::optional<Straggler> named_;
};

// Every kWindow steps ranks exchange their times. It begins after a step and is taken up after the
// next, so that no step waits for it. Cost: an all-gather of 24 bytes a rank.
class TimesExchange {
 public:
  static constexpr std::size_t kWindow = 10;

  explicit TimesExchange(Communicator& comm);

  // After every step, on all ranks; `save` of the newest state. True: all() is new.
  bool add(double compute, double step, double save);
  std::span<const RankTimes> all() const { return all_; }  // by rank; empty before the first
  const std::optional<Straggler>& straggler() const { return rule_.straggler(); }
  void finish();  // what has begun; before this and `comm` go

 private:
  Communicator& comm_;
  Stream stream_;
  std::array<double, kWindow> step_{};
  double compute_ = 0;
  std::size_t filled_ = 0;
  RankTimes mine_;
  std::vector<RankTimes> arriving_, all_;
  std::optional<Request> under_way_;
  StragglerRule rule_;
};

}  // namespace peal
