#include "comm/queue.h"

#include <sched.h>

#include <algorithm>
#include <ctime>

namespace peal {
namespace {

// How long calls are left to wait() where ranks have no core to spare.
constexpr std::chrono::milliseconds kGrace{20};

// Of Clock, a few milliseconds behind it at most, in a third of its time.
std::chrono::steady_clock::time_point coarse_now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
  return std::chrono::steady_clock::time_point(std::chrono::seconds(now.tv_sec) +
                                               std::chrono::nanoseconds(now.tv_nsec));
}

// Where an argument is wrong; made into text only then.
struct CallPlace {
  std::string_view call, name;
  std::string text() const { return cat(call, " \"", name, "\""); }
};

void require_memory(const CallPlace& place, const Tensor& t, std::string_view what) {
  if (t.layout != nullptr) fail_input(place.text(), what, " must be row-major");
  if (t.numel() > 0 && t.data == nullptr) fail_input(place.text(), what, " has no memory");
  switch (t.dtype) {
    case DType::f32:
    case DType::f64:
    case DType::i32:
    case DType::i64:
    case DType::u8:
      return;
    default:
      fail_input(place.text(), what, " is ", name_of(t.dtype), "; allowed: f32, f64, i32, i64, u8");
  }
}

// `times_x` * x.numel() == `times_y` * y.numel(), same dtype.
void require_pair(const CallPlace& place, const Tensor& x, std::int64_t times_x, const Tensor& y,
                  std::int64_t times_y) {
  require_memory(place, x, "x");
  require_memory(place, y, "y");
  if (x.dtype != y.dtype) {
    fail_input(place.text(), "x is ", name_of(x.dtype), " but y is ", name_of(y.dtype));
  }
  if (x.numel() * times_x != y.numel() * times_y) {
    fail_input(place.text(), "x has ", x.numel(), " elements and y ", y.numel(), "; ",
               x.numel() * times_x, " and ", y.numel() * times_y, " must be equal");
  }
}

Call make_call(CallKind kind, DType dtype, std::int64_t count) {
  Call call;
  call.record.kind = kind;
  call.record.dtype = dtype;
  call.record.count = count;
  return call;
}

void add_input(Call& call, const Tensor& x) {
  call.inputs[call.input_count++] = x.as<const std::byte>();
}

}  // namespace

Cores cores_of_this_process() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return {};
  return {CPU_COUNT(&set), CPU_COUNT(&set)};
}

QueuedCommunicator::QueuedCommunicator(Place place) : place_(std::move(place)) {
  watch_.rank = place_.rank;
  watch_.names = place_.names;
  watch_.deadline = place_.deadline;
  caller_spins_ = place_.cores.of_host >= place_.local_size;
  eager_ = place_.cores.of_host >= 2 * place_.local_size && place_.cores.of_rank >= 2;
}

QueuedCommunicator::~QueuedCommunicator() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    watch_.closing = true;
    work_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

void QueuedCommunicator::start(std::unique_ptr<Transport> transport) {
  transport_ = std::move(transport);
  thread_ = std::thread([this] { progress(); });
}

std::string QueuedCommunicator::rank_name(int rank) const {
  if (rank < 0 || rank >= world_size()) {
    fail_input("rank_name", "rank ", rank, " is not in 0..", world_size() - 1);
  }
  return watch_.names[static_cast<std::size_t>(rank)];
}

Buffer QueuedCommunicator::allocate(std::size_t bytes) {
  return Buffer(bytes);
}

Request QueuedCommunicator::all_reduce(Stream&, std::string_view name, const Tensor& x, Tensor y,
                                       ReduceOp op, Algorithm algorithm) {
  const CallPlace place{"all_reduce", name};
  require_pair(place, x, 1, y, 1);
  Call call = make_call(CallKind::all_reduce, x.dtype, x.numel());
  call.record.op = op;
  call.record.algorithm = algorithm;
  call.output = y.as<std::byte>();
  add_input(call, x);
  return enqueue(call, name);
}

Request QueuedCommunicator::all_reduce_tree(Stream&, std::string_view name, int virtual_ranks,
                                            std::span<const Tensor> partials, Tensor y) {
  const CallPlace place{"all_reduce_tree", name};
  const TreePlan& tree = tree_for(virtual_ranks);
  const int expected = tree.count(rank());
  if (static_cast<int>(partials.size()) != expected) {
    fail_input(place.text(), partials.size(), " partial sums; rank ", rank(), " of ", world_size(),
               " with ", virtual_ranks, " virtual ranks has ", expected);
  }
  Call call = make_call(CallKind::all_reduce_tree, DType::f32, y.numel());
  call.record.parameter = virtual_ranks;
  call.tree = &tree;
  call.output = y.as<std::byte>();
  for (const Tensor& partial : partials) {
    require_pair(place, partial, 1, y, 1);
    add_input(call, partial);
  }
  if (y.dtype != DType::f32) {
    fail_input(place.text(), "y is ", name_of(y.dtype), "; allowed: f32");
  }
  return enqueue(call, name);
}

Request QueuedCommunicator::reduce_scatter(Stream&, std::string_view name, const Tensor& x,
                                           Tensor y, ReduceOp op) {
  const CallPlace place{"reduce_scatter", name};
  require_pair(place, x, 1, y, world_size());
  Call call = make_call(CallKind::reduce_scatter, x.dtype, y.numel());
  call.record.op = op;
  call.output = y.as<std::byte>();
  add_input(call, x);
  return enqueue(call, name);
}

Request QueuedCommunicator::all_gather(Stream&, std::string_view name, const Tensor& x, Tensor y) {
  const CallPlace place{"all_gather", name};
  require_pair(place, x, world_size(), y, 1);
  Call call = make_call(CallKind::all_gather, x.dtype, x.numel());
  call.output = y.as<std::byte>();
  add_input(call, x);
  return enqueue(call, name);
}

Request QueuedCommunicator::broadcast(Stream&, std::string_view name, Tensor x, int root) {
  const CallPlace place{"broadcast", name};
  require_memory(place, x, "x");
  if (root < 0 || root >= world_size()) {
    fail_input(place.text(), "root ", root, " is not in 0..", world_size() - 1);
  }
  Call call = make_call(CallKind::broadcast, x.dtype, x.numel());
  call.record.parameter = root;
  if (root == rank()) {
    add_input(call, x);
  } else {
    call.output = x.as<std::byte>();
  }
  return enqueue(call, name);
}

Request QueuedCommunicator::barrier(Stream&, std::string_view name) {
  Call call = make_call(CallKind::barrier, DType::u8, 0);
  return enqueue(call, name);
}

const TreePlan& QueuedCommunicator::tree_for(int virtual_ranks) {
  const auto found = trees_.find(virtual_ranks);
  if (found != trees_.end()) return found->second;
  return trees_.emplace(virtual_ranks, tree_plan(virtual_ranks, world_size())).first->second;
}

Request QueuedCommunicator::enqueue(Call& call, std::string_view name) {
  set_name(call.record, name);
  std::unique_lock lock(mutex_);
  while (posted_ - completed_.load(std::memory_order_relaxed) == kSlots) {
    throw_if_broken();
    if (running_) {
      finished_.wait(lock);
    } else {
      run_next(lock, caller_spins_);
    }
  }
  throw_if_broken();
  Slot& slot = slots_[posted_ % kSlots];
  slot.call = call;
  slot.since = coarse_now();
  ++posted_;
  if (!napping_) work_.notify_one();
  return Request(posted_);
}

void QueuedCommunicator::wait(Stream&, Request request) {
  const auto ended = [&] { return completed_.load(std::memory_order_acquire) >= request.ticket(); };
  if (ended()) return;
  if (eager_) {
    // The progress thread is most likely about to finish.
    for (Patience patience(watch_); !ended() && !patience.exhausted();) {
    }
  }
  std::unique_lock lock(mutex_);
  while (!ended()) {
    throw_if_broken();
    if (running_) {
      finished_.wait(lock);
    } else {
      run_next(lock, caller_spins_);
    }
  }
}

bool QueuedCommunicator::done(Request request) const {
  if (completed_.load(std::memory_order_acquire) >= request.ticket()) return true;
  const std::lock_guard lock(mutex_);
  hurried_ = true;
  work_.notify_one();
  return completed_.load(std::memory_order_acquire) >= request.ticket();
}

// Runs the oldest call without the lock; `lock` is held before and after.
void QueuedCommunicator::run_next(std::unique_lock<std::mutex>& lock, bool spin) {
  running_ = true;
  const Slot& slot = slots_[completed_.load(std::memory_order_relaxed) % kSlots];
  watch_.spin.store(spin, std::memory_order_relaxed);
  lock.unlock();
  std::optional<Error> error;
  try {
    transport_->run(slot.call);
  } catch (const Error& e) {
    error = e;
  } catch (const std::exception& e) {
    error = Error(ErrorKind::internal, watch_.place(), e.what());
  }
  lock.lock();
  running_ = false;
  if (error) {
    if (!broken_) broken_ = error;
  } else {
    completed_.fetch_add(1, std::memory_order_release);
  }
  finished_.notify_all();
}

void QueuedCommunicator::progress() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const std::uint64_t next = completed_.load(std::memory_order_relaxed);
    if (next == posted_ || broken_) {
      hurried_ = false;
      work_.wait(lock);
      continue;
    }
    const auto due =
        eager_ || hurried_ ? Clock::time_point() : slots_[next % kSlots].since + kGrace;
    if (running_ || Clock::now() < due) {
      napping_ = true;
      work_.wait_until(lock, running_ ? Clock::now() + kGrace : due);
      napping_ = false;
      continue;
    }
    run_next(lock, eager_);
  }
}

void QueuedCommunicator::throw_if_broken() const {
  if (broken_) throw Error(*broken_);
}

void QueuedCommunicator::abort(const std::string& cause, int code) {
  transport_->abort(
      make_cause(rank(), code, watch_.names[static_cast<std::size_t>(rank())], cause));
}

void QueuedCommunicator::set_deadline(double seconds) {
  watch_.deadline.store(seconds, std::memory_order_relaxed);
}

void QueuedCommunicator::set_step(std::int64_t step) {
  watch_.step.store(step, std::memory_order_relaxed);
}

}  // namespace peal
