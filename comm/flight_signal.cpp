#include "comm/flight_signal.h"

#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "comm/flight.h"
#include "core/base/error.h"

namespace peal {
namespace {

std::atomic<int> event{-1};  // an eventfd: what a handler may write to

extern "C" void on_flight_signal(int) {
  const int before = errno;
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(event.load(), &one, sizeof one);
  errno = before;
}

class Writer {
 public:
  void set(FlightRecorder* recorder, bool on) {
    const std::lock_guard lock(mutex_);
    std::erase(recorders_, recorder);
    if (!on) return;
    recorders_.push_back(recorder);
    if (!tried_) start();
    tried_ = true;
  }

 private:
  void start() {
    struct sigaction action {};
    if (::sigaction(SIGUSR2, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) return;
    event = ::eventfd(0, EFD_CLOEXEC);
    if (event < 0) {
      return recorders_.back()->warn(cat("no flight record on SIGUSR2: ", std::strerror(errno)));
    }
    std::thread([this] { run(); }).detach();
    action.sa_handler = on_flight_signal;
    action.sa_flags = SA_RESTART | SA_ONSTACK;  // the host program's stack for signals, if any
    ::sigaction(SIGUSR2, &action, nullptr);
  }

  void run() {
    for (;;) {
      std::uint64_t signals = 0;
      if (::read(event, &signals, sizeof signals) != sizeof signals) continue;  // EINTR
      const std::lock_guard lock(mutex_);
      for (FlightRecorder* recorder : recorders_) recorder->write("SIGUSR2");
    }
  }

  std::mutex mutex_;
  std::vector<FlightRecorder*> recorders_;
  bool tried_ = false;
};

}  // namespace

void write_on_signal(FlightRecorder* recorder, bool on) {
  static Writer& writer = *new Writer;  // its thread runs as long as the process
  writer.set(recorder, on);
}

}  // namespace peal
