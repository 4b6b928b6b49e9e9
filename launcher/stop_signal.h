// Ctrl-C, SIGTERM and SIGUSR1 as a question that the training loop asks.
#pragma once

#include <vector>

namespace peal {

// From construction to destruction these signals set a flag instead of ending the process. A second
// SIGINT ends it at once.
class StopSignal {
 public:
  explicit StopSignal(std::vector<int> signals);
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static bool asked();

 private:
  std::vector<int> signals_;
};

}  // namespace peal
