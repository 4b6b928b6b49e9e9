// Ranks as threads, of which one comes late to a call: not after some time, but when the others
// have given up, so that no test depends on how fast its machine is.
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace peal {

class GaveUp {
 public:
  // Whoever holds one gives up at its end, by an exception or not.
  class Holder {
   public:
    explicit Holder(std::atomic<bool>* flag) : flag_(flag) {}
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;
    ~Holder() {
      if (flag_) *flag_ = true;
    }

   private:
    std::atomic<bool>* flag_;
  };

  Holder at_end(bool this_rank) { return Holder(this_rank ? &flag_ : nullptr); }
  void wait() const {
    while (!flag_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }

 private:
  std::atomic<bool> flag_{false};
};

}  // namespace peal
