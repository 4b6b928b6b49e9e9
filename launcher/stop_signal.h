// Ctrl-C and SIGTERM as a question that the training loop asks.
#pragma once

namespace peal {

// From construction to destruction, SIGINT and SIGTERM set a flag instead of ending the process. A
// second SIGINT ends it at once.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  static bool asked();
};

}  // namespace peal
