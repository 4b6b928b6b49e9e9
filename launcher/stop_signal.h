// Ctrl-C, SIGTERM and SIGUSR1 as a question that the training loop asks.
#pragma once

#include <vector>

namespace peal {

// From construction to destruction these signals set a flag instead of ending the process. A second
// SIGINT ends it at once. After `over` and destruction all but SIGINT are ignored until the process
// ends: one that comes late (ranks are told one after the other, and all stop with the first) must
// not kill a rank that others still wait for.
class StopSignal {
 public:
  explicit StopSignal(std::vector<int> signals);
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static bool asked();
  void over() { over_ = true; }

 private:
  std::vector<int> signals_;
  bool over_ = false;
};

}  // namespace peal
