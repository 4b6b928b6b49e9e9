#include "comm/tick_clock.h"

#include <fstream>
#include <string>

namespace peal {
namespace {

// The kernel takes time from the counter only where it runs evenly and alike on all cores.
bool kernel_trusts_counter() {
  std::ifstream file("/sys/devices/system/clocksource/clocksource0/current_clocksource");
  std::string name;
  return file >> name && name == "tsc";
}

}  // namespace

TickClock::TickClock() : counter_(kernel_trusts_counter()), start_(moment()) {}

// The closest of a few pairs: between two readings another thread may have its turn.
TickClock::Moment TickClock::moment() const {
  Moment closest;
  std::uint64_t apart = ~std::uint64_t{0};
  for (int i = 0; i < 5; ++i) {
    const std::uint64_t before = now();
    const Clock::time_point time = Clock::now();
    const std::uint64_t ticks = now() - before;
    if (ticks < apart) closest = {before + ticks / 2, time}, apart = ticks;
  }
  return closest;
}

double TickClock::seconds_per_tick_until(const Moment& end) const {
  const double seconds = std::chrono::duration<double>(end.time - start_.time).count();
  return end.tick <= start_.tick ? 0 : seconds / static_cast<double>(end.tick - start_.tick);
}

double TickClock::seconds_per_tick() const {
  return seconds_per_tick_until(moment());
}

double TickClock::seconds_since(std::uint64_t tick) const {
  const Moment end{now(), Clock::now()};  // another core's counter may lag by a few ticks
  return end.tick < tick ? 0 : static_cast<double>(end.tick - tick) * seconds_per_tick_until(end);
}

}  // namespace peal
