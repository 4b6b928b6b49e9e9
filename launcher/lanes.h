// A fixed set of threads that run the same function side by side, one call a lane.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace peal {

class Lanes {
 public:
  explicit Lanes(int count);
  ~Lanes();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;

  int count() const { return count_; }
  // Runs work(lane) for every lane and returns when all have ended; lane 0 is the caller's thread.
  // Rethrows the error of the lowest lane that threw.
  void run(const std::function<void(int lane)>& work);

 private:
  void serve(int lane);
  void call(int lane) noexcept;

  int count_;
  std::mutex mutex_;
  std::condition_variable start_, end_;
  const std::function<void(int)>* work_ = nullptr;
  std::uint64_t round_ = 0;
  int running_ = 0;
  bool stopping_ = false;
  std::vector<std::exception_ptr> errors_;
  std::vector<std::thread> threads_;
};

// Virtual ranks that this process should run at a time: `asked`, or when 0 one for each of `cpus`.
int lane_count(int asked, int cpus, int virtual_ranks_here);

}  // namespace peal
