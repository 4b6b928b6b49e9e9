#include "comm/queue.h"

#include <sched.h>

#include <algorithm>

#include "comm/combine.h"
#include "core/base/clones.h"

namespace peal {
namespace {

// How long calls are left to wait() where ranks have no core to spare.
constexpr std::chrono::duration<double> kGrace{0.02};
// Below, a call is left to wait() also where there are cores: waking the progress thread takes
// longer than the call.
constexpr std::int64_t kWorthAThread = std::int64_t{256} << 10;  // bytes

Call make_call(CallKind kind, DType dtype, std::int64_t count) {
  Call call;
  call.record.kind = kind;
  call.record.dtype = dtype;
  call.record.count = call.longest = count;
  return call;
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
  watch_.numbers = place_.numbers;
  watch_.deadline = place_.deadline;
  watch_.warn = place_.warn;
  pair_calls_.resize(place_.names.size());
  if (!place_.family) place_.family = std::make_shared<Family>();
  watch_.family = place_.family.get();
  if (!place_.groups) place_.groups = std::make_shared<std::atomic<std::int64_t>>(0);
  caller_spins_ = place_.cores.of_host >= place_.local_size;
  eager_ = place_.cores.of_host >= 2 * place_.local_size && place_.cores.of_rank >= 2;
  worth_a_thread_ = kWorthAThread;
  if (place_.own_streams) {
    // The host does not compute meanwhile, and a device waits for its work.
    eager_ = true;
    worth_a_thread_ = 0;
    for (std::size_t i = 0; i < kSlots; ++i) events_.emplace_back(place_.device);
  }
}

QueuedCommunicator::~QueuedCommunicator() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    watch_.closing = true;
    work_.notify_all();
  }
  if (transport_) transport_->leave();
  if (thread_.joinable()) thread_.join();
  if (transport_) place_.family->leave(*transport_);
}

void QueuedCommunicator::start(std::unique_ptr<Transport> transport) {
  transport_ = std::move(transport);
  place_.family->join(*transport_, flight_);
  bounds_.reserve(bounds_per_slot());
  slot_bounds_.resize(kSlots * bounds_per_slot());
  only_starts_ = transport_->only_starts();
  if (place_.progress_thread) thread_ = std::thread([this] { progress(); });
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

Request QueuedCommunicator::all_reduce(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                       ReduceOp op, Algorithm algorithm) {
  const CallPlace place{"all_reduce", name};
  require_pair(place, x, 1, y, 1);
  require_apart(place, y, x, 0);
  require_operation(place, x.dtype, op);
  Call call = make_call(CallKind::all_reduce, x.dtype, x.numel());
  call.record.op = op;
  call.record.algorithm = algorithm;
  add_input(place, call, x);
  add_output(place, call, y);
  return enqueue(s, call, name);
}

Request QueuedCommunicator::all_reduce_group(Stream& s, std::string_view name,
                                             std::span<const Tensor> xs, std::span<const Tensor> ys,
                                             ReduceOp op) {
  const CallPlace place{"all_reduce_group", name};
  if (xs.size() != ys.size() || xs.empty()) {
    fail_input(place.text(), xs.size(), " tensors x and ", ys.size(),
               " y; as many of each are needed, and at least one");
  }
  require_operation(place, xs[0].dtype, op);
  for (std::size_t i = 0; i < xs.size(); ++i) {
    require_pair(place, xs[i], 1, ys[i], 1);
    require_apart(place, ys[i], xs[i], 0);
    if (xs[i].dtype != xs[0].dtype) {
      fail_input(place.text(), "tensor ", i, " is ", name_of(xs[i].dtype), " but tensor 0 is ",
                 name_of(xs[0].dtype));
    }
  }
  Request last;
  while (!xs.empty()) {
    const std::size_t some = std::min<std::size_t>(xs.size(), kMaxInputs);
    Call call = make_call(CallKind::all_reduce, xs[0].dtype, 0);
    call.record.op = op;
    std::array<std::int64_t, kMaxInputs> sizes;
    for (std::size_t i = 0; i < some; ++i) {
      add_input(place, call, xs[i]);
      add_output(place, call, ys[i]);
      sizes[i] = xs[i].numel();
    }
    add_bounds(call, {sizes.data(), some});
    set_blocks(call.record, call.bounds, static_cast<int>(some));
    call.longest = call.record.count;
    last = enqueue(s, call, name);
    xs = xs.subspan(some);
    ys = ys.subspan(some);
  }
  return last;
}

Request QueuedCommunicator::all_reduce_tree(Stream& s, std::string_view name, int virtual_ranks,
                                            std::span<const Tensor> partials, Tensor y) {
  const CallPlace place{"all_reduce_tree", name};
  Call call = make_call(CallKind::all_reduce_tree, y.dtype, y.numel());
  call.record.parameter = virtual_ranks;
  call.tree = &tree_of(place, virtual_ranks, partials.size(), y.dtype);
  add_output(place, call, y);
  for (const Tensor& partial : partials) {
    require_pair(place, partial, 1, y, 1);
    add_input(place, call, partial);
  }
  return enqueue(s, call, name);
}

Request QueuedCommunicator::reduce(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                   ReduceOp op, int root) {
  const CallPlace place{"reduce", name};
  require_root(place, root, world_size());
  require_memory(place, x, "x");
  require_operation(place, x.dtype, op);
  Call call = make_call(CallKind::reduce, x.dtype, x.numel());
  call.record.op = op;
  call.record.parameter = root;
  add_input(place, call, x);
  if (rank() == root) {
    require_pair(place, x, 1, y, 1);
    require_apart(place, y, x, 0);
    add_output(place, call, y);
  }
  return enqueue(s, call, name);
}

Request QueuedCommunicator::reduce_scatter(Stream& s, std::string_view name, const Tensor& x,
                                           Tensor y, ReduceOp op, Counts counts) {
  const CallPlace place{"reduce_scatter", name};
  require_operation(place, x.dtype, op);
  Call call = make_call(CallKind::reduce_scatter, x.dtype, y.numel());
  call.record.op = op;
  add_input(place, call, x);
  add_output(place, call, y);
  check_blocks(place, call, y, &x, counts);
  return enqueue(s, call, name);
}

Request QueuedCommunicator::reduce_scatter_tree(Stream& s, std::string_view name, int virtual_ranks,
                                                std::span<const Tensor> partials, Tensor y,
                                                Counts counts) {
  const CallPlace place{"reduce_scatter_tree", name};
  require_counts(place, counts, "counts", world_size());
  require_memory(place, y, "y");
  require_elements(place, y, "y", counts[static_cast<std::size_t>(rank())]);
  Call call = make_call(CallKind::reduce_scatter_tree, y.dtype, 0);
  call.record.parameter = virtual_ranks;
  call.tree = &tree_of(place, virtual_ranks, partials.size(), y.dtype);
  add_bounds(call, counts);
  set_blocks(call.record, call.bounds, world_size());
  call.longest = call.record.count;
  add_output(place, call, y);
  for (const Tensor& partial : partials) {
    require_same_dtype(place, partial, y);
    require_elements(place, partial, "a partial sum", call.record.count);
    const bool first = &partial == partials.data();
    const auto mine = static_cast<std::int64_t>(call.block(rank()).begin);
    require_apart(place, y, partial, first ? mine : -1);
    add_input(place, call, partial);
  }
  return enqueue(s, call, name);
}

Request QueuedCommunicator::all_gather(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                       Counts counts) {
  const CallPlace place{"all_gather", name};
  Call call = make_call(CallKind::all_gather, x.dtype, x.numel());
  add_input(place, call, x);
  add_output(place, call, y);
  check_blocks(place, call, x, &y, counts);
  return enqueue(s, call, name);
}

Request QueuedCommunicator::gather(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                   int root, Counts counts) {
  const CallPlace place{"gather", name};
  require_root(place, root, world_size());
  Call call = make_call(CallKind::gather, x.dtype, x.numel());
  call.record.parameter = root;
  add_input(place, call, x);
  if (rank() == root) add_output(place, call, y);
  check_blocks(place, call, x, rank() == root ? &y : nullptr, counts);
  return enqueue(s, call, name);
}

Request QueuedCommunicator::scatter(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                    int root, Counts counts) {
  const CallPlace place{"scatter", name};
  require_root(place, root, world_size());
  Call call = make_call(CallKind::scatter, y.dtype, y.numel());
  call.record.parameter = root;
  if (rank() == root) add_input(place, call, x);
  add_output(place, call, y);
  check_blocks(place, call, y, rank() == root ? &x : nullptr, counts);
  return enqueue(s, call, name);
}

Request QueuedCommunicator::all_to_all(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                       Counts send_counts, Counts receive_counts) {
  const CallPlace place{"all_to_all", name};
  require_same_dtype(place, x, y);
  require_apart(place, y, x, /*offset=*/-1);
  const std::int64_t n = world_size();
  Call call = make_call(CallKind::all_to_all, x.dtype, x.numel() / n);
  add_input(place, call, x);
  add_output(place, call, y);
  if (send_counts.empty() && receive_counts.empty()) {
    require_pair(place, x, 1, y, 1);
    if (x.numel() % n != 0) {
      fail_input(place.text(), "x has ", x.numel(), " elements; a multiple of ", n,
                 " (ranks) is needed");
    }
    return enqueue(s, call, name);
  }
  require_counts(place, send_counts, "send counts", world_size());
  require_counts(place, receive_counts, "receive counts", world_size());
  add_bounds(call, send_counts);
  require_elements(place, x, "x", bounds_.back());
  add_bounds(call, receive_counts);
  require_elements(place, y, "y", bounds_.back());
  call.record.count = 0;
  set_blocks(call.record, call.bounds, world_size());
  return enqueue(s, call, name);
}

Request QueuedCommunicator::broadcast(Stream& s, std::string_view name, Tensor x, int root) {
  const CallPlace place{"broadcast", name};
  require_memory(place, x, "x");
  require_root(place, root, world_size());
  Call call = make_call(CallKind::broadcast, x.dtype, x.numel());
  call.record.parameter = root;
  if (root == rank()) {
    add_input(place, call, x);
  } else {
    add_output(place, call, x);
  }
  return enqueue(s, call, name);
}

Request QueuedCommunicator::send(Stream& s, std::string_view name, const Tensor& x, int to) {
  const CallPlace place{"send", name};
  require_memory(place, x, "x");
  require_peer(place, to, rank(), world_size());
  Call call = make_call(CallKind::send, x.dtype, x.numel());
  call.record.parameter = to;
  add_input(place, call, x);
  return enqueue(s, call, name);
}

Request QueuedCommunicator::recv(Stream& s, std::string_view name, Tensor y, int from) {
  const CallPlace place{"recv", name};
  require_memory(place, y, "y");
  require_peer(place, from, rank(), world_size());
  Call call = make_call(CallKind::recv, y.dtype, y.numel());
  call.record.parameter = from;
  add_output(place, call, y);
  return enqueue(s, call, name);
}

Request QueuedCommunicator::barrier(Stream& s, std::string_view name) {
  Call call = make_call(CallKind::barrier, DType::u8, 0);
  return enqueue(s, call, name);
}

void QueuedCommunicator::refuse(const CallPlace& place, const Device& device) const {
  fail_input(place.text(), "memory or stream of ", to_string(device),
             "; those of this communicator are of ", to_string(place_.device));
}

const TreePlan& QueuedCommunicator::tree_for(int virtual_ranks) {
  const auto found = trees_.find(virtual_ranks);
  if (found != trees_.end()) return found->second;
  TreePlan plan = tree_plan(virtual_ranks, world_size());
  plan.reduce.rounds_each_step = true;
  return trees_.emplace(virtual_ranks, std::move(plan)).first->second;
}

const TreePlan& QueuedCommunicator::tree_of(const CallPlace& place, int virtual_ranks,
                                            std::size_t partials, DType dtype) {
  if (dtype != DType::f32 && !partial_is_f32(dtype)) {
    fail_input(place.text(), "y is ", name_of(dtype), "; allowed: f32, f16, bf16");
  }
  const TreePlan& tree = tree_for(virtual_ranks);
  const int expected = tree.count(rank());
  if (static_cast<int>(partials) != expected) {
    fail_input(place.text(), partials, " partial sums; rank ", rank(), " of ", world_size(),
               " with ", virtual_ranks, " virtual ranks has ", expected);
  }
  return tree;
}

std::size_t QueuedCommunicator::bounds_per_slot() const {
  return std::max<std::size_t>(2 * (watch_.names.size() + 1), kMaxInputs + 1);
}

// The bounds of one more list of blocks, behind those that `call` has.
void QueuedCommunicator::add_bounds(Call& call, Counts counts) {
  if (call.bounds == nullptr) {
    bounds_.clear();
    call.longest = 0;
  }
  std::int64_t end = 0;
  bounds_.push_back(end);
  for (const std::int64_t count : counts) {
    bounds_.push_back(end += count);
    call.longest = std::max(call.longest, count);
  }
  call.bounds = bounds_.data();
  call.bound_count = static_cast<int>(bounds_.size());
}

// `block`: this rank's; `blocks`: the array of all, nullptr on a rank that has no part in it.
void QueuedCommunicator::check_blocks(const CallPlace& place, Call& call, const Tensor& block,
                                      const Tensor* blocks, Counts counts) {
  const std::string_view one = call.has_input_blocks() ? "y" : "x";
  const std::string_view all = call.has_input_blocks() ? "x" : "y";
  require_memory(place, block, one);
  if (!counts.empty()) {
    require_counts(place, counts, "counts", world_size());
    add_bounds(call, counts);
    set_blocks(call.record, call.bounds, world_size());
    require_elements(place, block, one, counts[static_cast<std::size_t>(rank())]);
  }
  if (blocks == nullptr) return;
  require_memory(place, *blocks, all);
  if (block.dtype != blocks->dtype) {
    fail_input(place.text(), one, " is ", name_of(block.dtype), " but ", all, " is ",
               name_of(blocks->dtype));
  }
  const auto elements = static_cast<std::int64_t>(call.block(world_size() - 1).end);
  if (blocks->numel() != elements) {
    fail_input(place.text(), all, " has ", blocks->numel(), " elements; one block for each of ",
               world_size(), " ranks is ", elements);
  }
  require_apart(place, block, *blocks, static_cast<std::int64_t>(call.block(rank()).begin));
}

PEAL_INLINE Request QueuedCommunicator::post(Stream& s, Call& call) {
  std::unique_lock lock(mutex_);
  while (posted_ - over() == kSlots) {
    throw_if_broken();
    run_or_wait(lock);
  }
  throw_if_broken();
  if (const Cause* cause = place_.family->failure()) throw_cause(*cause);
  const std::size_t index = posted_ % kSlots;
  Slot& slot = slots_[index];
  if (call.bounds != nullptr) {
    std::int64_t* bounds = &slot_bounds_[index * bounds_per_slot()];
    std::copy_n(call.bounds, call.bound_count, bounds);
    call.bounds = bounds;
  }
  if (!events_.empty()) mark_begin(s, call);
  // Ranks compare what they recorded by number.
  call.record.sequence = call.is_pair()
                             ? ++pair_calls_[static_cast<std::size_t>(call.record.parameter)]
                             : ++collectives_;
  const bool next = !running_ && completed_.load(std::memory_order_relaxed) == posted_;
  if (next) transport_->begin(call);
  slot.call = call;
  slot.since = flight_.ring().queued(call.record, watch_.step.load(std::memory_order_relaxed));
  ++posted_;
  const bool urgent =
      eager_ && call.longest * static_cast<std::int64_t>(call.element_size()) >= worth_a_thread_;
  if (urgent) urgent_ = posted_;
  if (urgent || !napping_) work_.notify_one();
  return Request(posted_);
}

Request QueuedCommunicator::pass(const Call& call) {
  Stream s;
  Call mine = call;
  return post(s, mine);
}

Request QueuedCommunicator::enqueue(Stream& s, Call& call, std::string_view name) {
  if (!(s.device() == place_.device)) refuse({name_of(call.record.kind), name}, s.device());
  CallRecord& recent = recent_[static_cast<std::size_t>(call.record.kind)];
  if (!set_name_like(call.record, name, recent)) {
    set_name(call.record, name);
    recent = call.record;
  }
  return post(s, call);
}

void QueuedCommunicator::wait(Stream& s, Request request) {
  const auto ended = [&] { return completed_.load(std::memory_order_acquire) >= request.ticket(); };
  if (!ended()) {
    std::unique_lock lock(mutex_);
    while (!ended()) {
      throw_if_broken();
      run_or_wait(lock);
    }
  }
  if (!events_.empty()) follow(s, request);
}

bool QueuedCommunicator::done(Request request) {
  const auto ended = [&] { return completed_.load(std::memory_order_acquire) >= request.ticket(); };
  if (!ended()) {
    std::unique_lock lock(mutex_);
    while (!place_.progress_thread && !ended() && !broken_) run_next(lock, caller_spins_);
    if (!ended()) {
      throw_if_broken();
      hurried_ = true;
      work_.notify_one();
      return false;
    }
  }
  return events_.empty() || ended_on_device(request);
}

// Runs the oldest call, or waits while somebody else does, or a device.
void QueuedCommunicator::run_or_wait(std::unique_lock<std::mutex>& lock) {
  const bool all_run = completed_.load(std::memory_order_relaxed) == posted_;
  if (!running_ && !all_run) return run_next(lock, caller_spins_);
  if (eager_ && !all_run) {
    // The progress thread may be about to finish.
    const std::uint64_t before = completed_.load(std::memory_order_relaxed);
    lock.unlock();
    Patience patience(watch_);
    while (completed_.load(std::memory_order_acquire) == before && !patience.exhausted()) {
    }
    lock.lock();
    if (!running_ || completed_.load(std::memory_order_relaxed) != before) return;
  }
  waiting_ = true;
  finished_.wait(lock);
  waiting_ = false;
}

// Runs the oldest call, without the lock if that takes long; `lock` is held before and after.
void QueuedCommunicator::run_next(std::unique_lock<std::mutex>& lock, bool spin) {
  running_ = true;
  const std::uint64_t entry = completed_.load(std::memory_order_relaxed) + 1;
  const Slot& slot = slots_[(entry - 1) % kSlots];
  flight_.ring().started(entry);
  const std::optional<Error> error = caught([&] {
    if (transport_->end_begun(slot.call, spin)) return;
    watch_.spin.store(spin, std::memory_order_relaxed);
    lock.unlock();
    transport_->run(slot.call);
  });
  if (!lock.owns_lock()) lock.lock();
  if (error || !only_starts_) flight_.ring().ended(entry, !error);
  if (error) {
    fail(lock, *error);
  } else {
    completed_.store(entry, std::memory_order_release);
  }
  running_ = false;
  if (waiting_) finished_.notify_all();
}

void QueuedCommunicator::fail(std::unique_lock<std::mutex>& lock, Error error) {
  if (!watch_.closing) {
    lock.unlock();
    error = tell(error);
    lock.lock();
  }
  if (!broken_) broken_ = error;
}

// To the peers in all communicators; what this rank then says itself is the first cause.
Error QueuedCommunicator::tell(const Error& error) {
  const Cause mine = make_cause(rank(), exit_code(error.kind()), error.where(), error.message());
  const Cause& first = place_.family->fail(mine, transport_.get());
  return first.message == mine.message ? error : error_of(first);
}

void QueuedCommunicator::progress() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    if (only_starts_) look_at_started(lock);
    const std::uint64_t next = completed_.load(std::memory_order_relaxed);
    if (next == posted_ || broken_) {
      hurried_ = false;
      wait_for_work(lock);
      continue;
    }
    std::chrono::duration<double> nap = running_ ? kGrace : kGrace.zero();
    if (!running_ && next >= urgent_ && !hurried_) {
      const double waited = flight_.ring().clock().seconds_since(slots_[next % kSlots].since);
      nap = kGrace - std::chrono::duration<double>(waited);
    }
    if (nap > nap.zero()) {
      napping_ = true;
      work_.wait_for(lock, nap);
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
  const std::string& me = watch_.names[static_cast<std::size_t>(rank())];
  place_.family->fail(make_cause(rank(), code, me, cause), /*here=*/nullptr);
}

std::string_view QueuedCommunicator::way(std::int64_t count, DType dtype, Algorithm algorithm) {
  Call call = make_call(CallKind::all_reduce, dtype, count);
  call.record.algorithm = algorithm;
  return transport_->way(call);
}

void QueuedCommunicator::set_deadline(double seconds) {
  watch_.deadline.store(seconds, std::memory_order_relaxed);
}

void QueuedCommunicator::set_step(std::int64_t step) {
  watch_.step.store(step, std::memory_order_relaxed);
}

void QueuedCommunicator::set_flight_directory(const std::string& directory) {
  flight_.set_directory(directory);
}

std::size_t QueuedCommunicator::copy_flight(std::uint64_t& seen, std::span<FlightCall> into) {
  const std::lock_guard lock(mutex_);
  return flight_.ring().copy_ended(seen, into);
}

}  // namespace peal
