#include "launcher/stop_signal.h"

#include <csignal>
#include <utility>

namespace peal {
namespace {

volatile std::sig_atomic_t got_stop_signal = 0;  // a handler has nowhere else to write

extern "C" void on_stop_signal(int number) {
  got_stop_signal = 1;
  if (number == SIGINT) std::signal(SIGINT, SIG_DFL);
}

void install(int number, void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART | SA_ONSTACK;  // signal_stack.h
  sigemptyset(&action.sa_mask);
  sigaction(number, &action, nullptr);
}

}  // namespace

StopSignal::StopSignal(std::vector<int> signals) : signals_(std::move(signals)) {
  for (const int number : signals_) install(number, on_stop_signal);
}

StopSignal::~StopSignal() {
  for (const int number : signals_) install(number, over_ && number != SIGINT ? SIG_IGN : SIG_DFL);
  got_stop_signal = 0;
}

bool StopSignal::asked() {
  return got_stop_signal != 0;
}

}  // namespace peal
