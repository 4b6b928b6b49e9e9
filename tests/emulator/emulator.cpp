#include "tests/emulator/emulator.h"

#include <sanitizer/common_interface_defs.h>

#include <algorithm>
#include <boost/context/fiber.hpp>
#include <boost/context/protected_fixedsize_stack.hpp>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/base/error.h"
#include "core/base/random.h"
#include "tests/emulator/stream.h"

namespace peal::emulator {
namespace {

using boost::context::fiber;

// ---- Stacks that the address sanitizer knows of -----------------------------------------------

struct Stack {
  const void* bottom = nullptr;
  std::size_t size = 0;
};

// Stacks begin at different places of a page, so that the caches hold the tops of many at once.
class StackAllocator {
 public:
  StackAllocator(Stack& made, std::size_t number) : made_(&made), unused_(number % 64 * 576) {}
  boost::context::stack_context allocate() {
    auto context = memory_.allocate();
    made_->bottom = static_cast<std::byte*>(context.sp) - context.size;
    made_->size = context.size;
    context.sp = static_cast<std::byte*>(context.sp) - unused_;
    return context;
  }
  void deallocate(boost::context::stack_context& context) {
    context.sp = static_cast<std::byte*>(context.sp) + unused_;
    memory_.deallocate(context);
  }

 private:
  static constexpr std::size_t kBytes = 256 << 10;
  boost::context::protected_fixedsize_stack memory_{kBytes};
  Stack* made_;
  std::size_t unused_;
};

void leave_for(void** own, const Stack& other) {
  __sanitizer_start_switch_fiber(own, other.bottom, other.size);
}

void arrive_on(void* own, Stack* left) {
  __sanitizer_finish_switch_fiber(own, left == nullptr ? nullptr : &left->bottom,
                                  left == nullptr ? nullptr : &left->size);
}

// ---- One block at a time ----------------------------------------------------------------------

struct Launch {
  std::string kernel;
  std::function<void()> thread;
  dim3 blocks, threads;
  std::size_t shared_bytes;
};

// A fiber that runs threads from begin to end, one after another until one has to wait.
struct Worker {
  fiber context;
  Stack stack;
  void* sanitizer_state = nullptr;
};

struct Warp {
  unsigned alive = 0;              // lanes that have not ended
  unsigned mask = 0, arrived = 0;  // of an exchange under way
  Exchange kind = Exchange::sync;
  std::uint64_t in[kWarpSize], out[kWarpSize];
};

unsigned size_of(const dim3& of) {
  return of.x * of.y * of.z;
}

uint3 at(unsigned index, const dim3& of) {
  return {index % of.x, index / of.x % of.y, index / of.x / of.y};
}

class Machine {
 public:
  void run(const Launch& launch);
  Here& here() { return here_; }
  void* shared() { return shared_.get(); }
  std::uint64_t block_number() const { return block_number_; }

  int sync_threads(bool counted);
  std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t bits, unsigned source);

 private:
  void run_block();
  void run_threads();
  void work();
  void resume(Worker& worker);
  void suspend();
  void end_of_thread();
  void release_barrier();
  void release(Warp& warp, unsigned first_thread);
  unsigned numbered(unsigned i, unsigned count) const { return backwards_ ? count - 1 - i : i; }
  [[noreturn]] void fail(const std::string& what) const;

  std::mutex mutex_;
  const Launch* launch_ = nullptr;
  Here here_{};
  std::uint64_t block_number_ = 0, launches_ = 0;
  bool backwards_ = false;
  const bool turned_ = std::getenv("PEAL_EMULATOR_BACKWARDS") != nullptr;
  const Random random_{{.seed = 1, .step = 0, .stream = 0}};
  std::unique_ptr<std::byte[]>
      shared_;  // as many bytes as were asked for, so that one more is seen

  // Threads of the block, by number; those that wait have a worker.
  unsigned count_ = 0, begun_ = 0, alive_ = 0, current_ = 0;
  std::vector<Worker*> waiting_;
  std::vector<Warp> warps_;
  std::deque<unsigned> ready_;
  std::vector<unsigned> at_barrier_;
  int counted_ = 0, counted_before_ = 0;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::vector<Worker*> idle_;
  Worker* running_ = nullptr;
  fiber scheduler_;
  Stack scheduler_stack_;
};

// One, as there is one device: kernels of other threads of the host wait. It is never freed, as its
// fibers are left where they wait for work.
Machine& machine() {
  static auto& machine = *new Machine;
  return machine;
}

void Machine::fail(const std::string& what) const {
  const auto& [thread, block, threads, blocks] = here_;
  std::fprintf(stderr,
               "emulated GPU: kernel %s, block (%u, %u, %u) of (%u, %u, %u), thread %u of %u: %s\n",
               launch_->kernel.c_str(), block.x, block.y, block.z, blocks.x, blocks.y, blocks.z,
               current_, count_, what.c_str());
  std::abort();
}

void Machine::run(const Launch& launch) {
  const std::lock_guard lock(mutex_);
  launch_ = &launch;
  here_ = {{}, {}, launch.threads, launch.blocks};
  count_ = size_of(launch.threads);
  backwards_ = (random_.u64(launches_++) % 2 == 1) != turned_;
  shared_ = std::make_unique<std::byte[]>(launch.shared_bytes);
  const unsigned blocks = size_of(launch.blocks);
  for (unsigned b = 0; b < blocks; ++b) {
    here_.block = at(numbered(b, blocks), launch.blocks);
    run_block();
  }
}

void Machine::run_block() {
  ++block_number_;
  std::fill_n(shared_.get(), launch_->shared_bytes, std::byte{0xff});
  begun_ = 0;
  alive_ = count_;
  waiting_.assign(count_, nullptr);
  warps_.assign((count_ + kWarpSize - 1) / kWarpSize, {});
  for (unsigned t = 0; t < count_; ++t) warps_[t / kWarpSize].alive |= 1u << t % kWarpSize;
  while (alive_ > 0) run_threads();
}

// Those that may go on first: they are fewer stacks then.
void Machine::run_threads() {
  if (!ready_.empty()) {
    current_ = ready_.front();
    ready_.pop_front();
    resume(*std::exchange(waiting_[current_], nullptr));
  } else if (begun_ < count_) {
    if (idle_.empty()) {
      workers_.push_back(std::make_unique<Worker>());
      Worker& made = *workers_.back();
      made.context = fiber(std::allocator_arg, StackAllocator(made.stack, workers_.size()),
                           [this](fiber&& scheduler) {
                             scheduler_ = std::move(scheduler);
                             arrive_on(nullptr, &scheduler_stack_);
                             work();
                             return fiber();
                           });
      idle_.push_back(&made);
    }
    Worker* const next = idle_.back();
    idle_.pop_back();
    resume(*next);
  } else {
    fail(cat(at_barrier_.size(), " threads wait at a barrier, ", alive_ - at_barrier_.size(),
             " for lanes of their warp, and ", count_ - alive_, " have ended: none can go on"));
  }
}

void Machine::work() {
  for (;;) {
    while (begun_ < count_) {
      current_ = numbered(begun_++, count_);
      here_.thread = at(current_, launch_->threads);
      launch_->thread();
      end_of_thread();
    }
    idle_.push_back(running_);
    suspend();
  }
}

void Machine::resume(Worker& worker) {
  running_ = &worker;
  here_.thread = at(current_, launch_->threads);
  void* own = nullptr;
  leave_for(&own, worker.stack);
  worker.context = std::move(worker.context).resume();
  arrive_on(own, nullptr);
}

// Back in the worker when it is resumed.
void Machine::suspend() {
  Worker& self = *running_;
  leave_for(&self.sanitizer_state, scheduler_stack_);
  scheduler_ = std::move(scheduler_).resume();
  arrive_on(self.sanitizer_state, &scheduler_stack_);  // of any thread of the host
}

void Machine::end_of_thread() {
  --alive_;
  Warp& warp = warps_[current_ / kWarpSize];
  warp.alive &= ~(1u << current_ % kWarpSize);
  if (warp.arrived != 0 && warp.arrived == (warp.mask & warp.alive)) {
    release(warp, current_ / kWarpSize * kWarpSize);
  }
}

// Unlike the hardware, it does not take threads that have ended for such that have come: CUDA says
// that all threads of a block must.
int Machine::sync_threads(bool counted) {
  counted_ += counted ? 1 : 0;
  if (at_barrier_.size() + 1 == count_) {
    release_barrier();
    return counted_before_;
  }
  at_barrier_.push_back(current_);
  waiting_[current_] = running_;
  suspend();
  return counted_before_;
}

void Machine::release_barrier() {
  counted_before_ = std::exchange(counted_, 0);
  ready_.insert(ready_.end(), at_barrier_.begin(), at_barrier_.end());
  at_barrier_.clear();
}

std::uint64_t Machine::exchange(Exchange kind, unsigned mask, std::uint64_t bits, unsigned source) {
  const unsigned lane = current_ % kWarpSize, first = current_ - lane;
  Warp& warp = warps_[current_ / kWarpSize];
  if ((mask >> lane & 1u) == 0) fail("it is not in the mask of its own exchange");
  if (warp.arrived == 0) {
    warp.kind = kind;
    warp.mask = mask;
  } else if (warp.kind != kind || warp.mask != mask) {
    fail("its warp is in another exchange");
  }
  warp.in[lane] = bits;
  warp.arrived |= 1u << lane;
  if (warp.arrived == (mask & warp.alive)) {
    release(warp, first);
  } else {
    waiting_[current_] = running_;
    suspend();
  }
  return warps_[first / kWarpSize].out[source];
}

// What a lane hands in that is not there nobody knows.
void Machine::release(Warp& warp, unsigned first_thread) {
  std::uint64_t votes = 0;
  for (unsigned lane = 0; lane < kWarpSize; ++lane) {
    const bool there = (warp.arrived >> lane & 1u) != 0;
    warp.out[lane] = there ? warp.in[lane] : ~std::uint64_t{0};
    if (there) votes |= warp.in[lane];
  }
  for (unsigned lane = 0; warp.kind == Exchange::ballot && lane < kWarpSize; ++lane) {
    warp.out[lane] = votes;
  }
  for (unsigned i = 0; i < kWarpSize; ++i) {
    const unsigned lane = numbered(i, kWarpSize);
    const bool waits = (warp.arrived >> lane & 1u) != 0 && first_thread + lane != current_;
    if (waits) ready_.push_back(first_thread + lane);
  }
  warp.arrived = 0;
}

std::size_t most_asked = kSharedWithoutAsking;

void check(const Launch& of) {
  constexpr unsigned kMostThreads = 1024, kMostBlocks = 65535;
  const auto refuse = [&](const std::string& what) { fail_internal(of.kernel, "launch: ", what); };
  const unsigned threads = size_of(of.threads);
  if (threads == 0 || threads > kMostThreads || of.threads.z > 64) {
    refuse(cat(of.threads.x, " x ", of.threads.y, " x ", of.threads.z, " threads"));
  }
  if (size_of(of.blocks) == 0 || of.blocks.x > 0x7fffffffu || of.blocks.y > kMostBlocks ||
      of.blocks.z > kMostBlocks) {
    refuse(cat(of.blocks.x, " x ", of.blocks.y, " x ", of.blocks.z, " blocks"));
  }
  if (of.shared_bytes > most_asked) refuse(cat(of.shared_bytes, " bytes of shared memory"));
}

}  // namespace

Here& here() {
  return machine().here();
}

void launch(const char* kernel, std::function<void()> thread, dim3 blocks, dim3 threads,
            std::size_t shared_bytes, cudaStream_t stream) {
  Launch launch{kernel, std::move(thread), blocks, threads, shared_bytes};
  check(launch);
  enqueue(stream, [launch = std::move(launch)] { machine().run(launch); });
}

void* dynamic_shared_bytes() {
  return machine().shared();
}

std::uint64_t block_number() {
  return machine().block_number();
}

void allow_shared(const void*, std::size_t bytes) {
  if (bytes > kMostShared) fail_internal("shared memory", bytes, " bytes for a block");
  most_asked = std::max(most_asked, bytes);
}

int sync_threads(bool counted) {
  return machine().sync_threads(counted);
}

std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t bits, unsigned source) {
  return machine().exchange(kind, mask, bits, source);
}

unsigned ballot(unsigned mask, bool mine) {
  const unsigned lane = here().thread.x % kWarpSize;
  return static_cast<unsigned>(
      machine().exchange(Exchange::ballot, mask, mine ? 1u << lane : 0u, lane));
}

}  // namespace peal::emulator
