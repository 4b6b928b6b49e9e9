#include "launcher/lanes.h"

#include <algorithm>
#include <utility>

namespace peal {

Lanes::Lanes(int count) : count_(count), errors_(static_cast<std::size_t>(count)) {
  for (int lane = 1; lane < count; ++lane) threads_.emplace_back([this, lane] { serve(lane); });
}

Lanes::~Lanes() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  start_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void Lanes::call(int lane) noexcept {
  try {
    (*work_)(lane);
  } catch (...) {
    errors_[static_cast<std::size_t>(lane)] = std::current_exception();
  }
}

void Lanes::serve(int lane) {
  std::uint64_t seen = 0;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      start_.wait(lock, [&] { return stopping_ || round_ != seen; });
      if (stopping_) return;
      seen = round_;
    }
    call(lane);
    const std::lock_guard lock(mutex_);
    if (--running_ == 0) end_.notify_one();
  }
}

void Lanes::run(const std::function<void(int)>& work) {
  work_ = &work;
  if (count_ > 1) {
    const std::lock_guard lock(mutex_);
    running_ = count_ - 1;
    ++round_;
  }
  start_.notify_all();
  call(0);
  if (count_ > 1) {
    std::unique_lock lock(mutex_);
    end_.wait(lock, [&] { return running_ == 0; });
  }
  for (std::exception_ptr& error : errors_) {
    if (error) std::rethrow_exception(std::exchange(error, nullptr));
  }
}

int lane_count(int asked, int cpus, int virtual_ranks_here) {
  return std::clamp(asked > 0 ? asked : cpus, 1, std::max(1, virtual_ranks_here));
}

}  // namespace peal
