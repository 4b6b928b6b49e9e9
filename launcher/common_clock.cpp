#include "launcher/common_clock.h"

#include <algorithm>
#include <limits>
#include <vector>

namespace peal {

ClockOffset offset_between(const Meeting& reference, const Meeting& mine) {
  double low = -std::numeric_limits<double>::infinity(), high = -low;
  for (std::size_t i = 0; i < Meeting::kBarriers; ++i) {
    low = std::max(low, reference.began[i] - mine.ended[i]);
    high = std::min(high, reference.ended[i] - mine.began[i]);
  }
  return {(low + high) / 2, std::max(0.0, (high - low) / 2)};
}

CommonClock::Ticks CommonClock::meet() {
  Ticks ticks;
  Stream s;
  for (std::size_t i = 0; i < Meeting::kBarriers; ++i) {
    ticks.began[i] = now();
    comm_.wait(s, comm_.barrier(s, "clocks"));
    ticks.ended[i] = now();
  }
  return ticks;
}

void CommonClock::start() {
  first_ = meet();
}

void CommonClock::end() {
  const Ticks last = meet();
  seconds_per_tick_ = ticks_.seconds_per_tick();
  const Meeting mine[2] = {in_seconds(first_), in_seconds(last)};
  constexpr std::int64_t kNumbers = 2 * sizeof(Meeting) / sizeof(double);
  std::vector<Meeting> all(2 * static_cast<std::size_t>(comm_.world_size()));
  Stream s;
  comm_.wait(s, comm_.all_gather(s, "clocks", {const_cast<Meeting*>(mine), {kNumbers}, DType::f64},
                                 {all.data(), {kNumbers * comm_.world_size()}, DType::f64}));
  // Rank 0 is its own reference: without error.
  const bool reference = comm_.rank() == 0;
  first_offset_ = reference ? ClockOffset{} : offset_between(all[0], mine[0]);
  last_offset_ = reference ? ClockOffset{} : offset_between(all[1], mine[1]);
  first_at_ = mine[0].ended.back();
  last_at_ = mine[1].began.front();
  rank_0_at_ = all[0].ended.back();
}

Meeting CommonClock::in_seconds(const Ticks& ticks) const {
  Meeting meeting;
  for (std::size_t i = 0; i < Meeting::kBarriers; ++i) {
    meeting.began[i] = own_seconds(ticks.began[i]);
    meeting.ended[i] = own_seconds(ticks.ended[i]);
  }
  return meeting;
}

double CommonClock::own_seconds(std::uint64_t tick) const {
  return static_cast<double>(static_cast<std::int64_t>(tick - zero_)) * seconds_per_tick_;
}

double CommonClock::seconds(std::uint64_t tick) const {
  const double own = own_seconds(tick);
  const double share = std::clamp((own - first_at_) / (last_at_ - first_at_), 0.0, 1.0);
  const double offset =
      first_offset_.seconds + share * (last_offset_.seconds - first_offset_.seconds);
  return own + offset - rank_0_at_;
}

double CommonClock::error() const {
  return std::max(first_offset_.error, last_offset_.error);
}

}  // namespace peal
