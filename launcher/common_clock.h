// One time for all ranks: where each rank's clock stands to rank 0's, and how surely that is known.
//
// A barrier ends on no rank before it has begun on every rank. So with o to be added to the clock
// of rank r to get that of rank 0, each barrier says
//   began_0 - ended_r <= o <= ended_0 - began_r,
// and of many barriers the narrowest bounds are kept: the middle is the offset, half the width is
// what it may be wrong by, however unequal the two directions of the network are.
#pragma once

#include <array>
#include <cstdint>

#include "comm/communicator.h"
#include "comm/tick_clock.h"

namespace peal {

struct ClockOffset {
  double seconds = 0;  // to add
  double error = 0;    // the truth is at most this far away
};

// When this rank entered and left some barriers, in seconds of its own clock.
struct Meeting {
  static constexpr std::size_t kBarriers = 32;
  std::array<double, kBarriers> began{}, ended{};
};
ClockOffset offset_between(const Meeting& reference, const Meeting& mine);

// Meets twice, so that clocks that run at different speeds agree in between as well.
class CommonClock {
 public:
  explicit CommonClock(Communicator& comm) : comm_(comm), zero_(ticks_.now()) {}

  std::uint64_t now() const { return ticks_.now(); }
  void start();  // collective
  void end();    // collective

  // After end(). Seconds since rank 0's first meeting.
  double seconds(std::uint64_t tick) const;
  double error() const;  // at the meetings; between them what the clocks' speeds change by is added

 private:
  struct Ticks {
    std::array<std::uint64_t, Meeting::kBarriers> began{}, ended{};
  };
  Ticks meet();
  Meeting in_seconds(const Ticks& ticks) const;
  double own_seconds(std::uint64_t tick) const;

  Communicator& comm_;
  TickClock ticks_;
  std::uint64_t zero_;
  double seconds_per_tick_ = 0;
  Ticks first_;
  double first_at_ = 0, last_at_ = 0, rank_0_at_ = 0;  // own seconds; rank 0's of the first meeting
  ClockOffset first_offset_, last_offset_;
};

}  // namespace peal
