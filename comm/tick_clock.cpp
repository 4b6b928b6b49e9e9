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

TickClock::TickClock()
    : counter_(kernel_trusts_counter()), start_tick_(now()), start_(Clock::now()) {}

double TickClock::seconds_per_tick() const {
  const double seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  const std::uint64_t ticks = now() - start_tick_;
  return ticks == 0 ? 0 : seconds / static_cast<double>(ticks);
}

double TickClock::seconds_since(std::uint64_t tick) const {
  const std::uint64_t end = now();  // another core's counter may lag by a few ticks
  return end < tick ? 0 : static_cast<double>(end - tick) * seconds_per_tick();
}

}  // namespace peal
