// Time stamps at half the price of a clock: the processor's counter, where the system's own clock
// is made of it; otherwise the steady clock.
#pragma once

#include <chrono>
#include <cstdint>

namespace peal {

class TickClock {
 public:
  TickClock();

  std::uint64_t now() const {
#if defined(__x86_64__)
    if (counter_) return __builtin_ia32_rdtsc();
#endif
    return static_cast<std::uint64_t>(Clock::now().time_since_epoch().count());
  }
  // Of one tick, measured from construction to now; not disturbed by others' turns on the
  // processor.
  double seconds_per_tick() const;
  // Of which one reading may be late, when this thread loses its processor in between.
  double seconds_since(std::uint64_t tick) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Moment {
    std::uint64_t tick = 0;
    Clock::time_point time;
  };

  Moment moment() const;
  double seconds_per_tick_until(const Moment& end) const;

  bool counter_;
  Moment start_;
};

}  // namespace peal
