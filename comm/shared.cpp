#include "comm/shared.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <new>

#include "core/base/error.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

constexpr long kNapNanoseconds = 20'000'000;  // between looks at failures and the deadline

// Not the private kind: the word may be shared between processes.
void futex_sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected) {
  const timespec nap{0, kNapNanoseconds};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, expected, &nap, nullptr, 0);
}

void wake_sleepers(Control& control) {
  control.wakes.fetch_add(1, std::memory_order_seq_cst);
  ::syscall(SYS_futex, &control.wakes, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

void full_fence() {
  __sync_synchronize();  // the thread sanitizer refuses atomic_thread_fence
}

void copy_bytes(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes > 0 && to != from) std::memmove(to, from, bytes);
}

class ThreadSpace final : public SharedSpace {
 public:
  explicit ThreadSpace(int ranks) : memory_(bytes(ranks)) {
    attach(memory_.data(), ranks, /*construct=*/true);
  }
  bool locate(const std::byte* data, std::size_t, Location& location) const override {
    location = {0, reinterpret_cast<std::uint64_t>(data)};
    return true;
  }
  std::byte* resolve(int, const Location& location) const override {
    return reinterpret_cast<std::byte*>(location.offset);
  }
  bool alive(int) const override { return true; }

 private:
  Buffer memory_;
};

}  // namespace

std::size_t SharedSpace::bytes(int ranks) {
  return sizeof(Control) + static_cast<std::size_t>(ranks) * (sizeof(RankState) + 2 * kBounceBytes);
}

RankState& SharedSpace::state(int rank) const {
  return reinterpret_cast<RankState*>(base_ + sizeof(Control))[rank];
}

std::byte* SharedSpace::bounce_in(int rank) const {
  const auto n = static_cast<std::size_t>(ranks_), r = static_cast<std::size_t>(rank);
  return base_ + sizeof(Control) + n * sizeof(RankState) + r * 2 * kBounceBytes;
}

void SharedSpace::attach(std::byte* base, int ranks, bool construct) {
  base_ = base;
  ranks_ = ranks;
  if (!construct) return;
  new (base) Control;
  for (int r = 0; r < ranks; ++r) new (&state(r)) RankState;
}

std::shared_ptr<SharedSpace> make_thread_space(int ranks) {
  return std::make_shared<ThreadSpace>(ranks);
}

SharedTransport::SharedTransport(std::shared_ptr<SharedSpace> space, const Watch& watch)
    : space_(std::move(space)),
      watch_(watch),
      ranks_(space_->ranks()),
      rank_(watch.rank),
      chain_(chain_plan(ranks_)),
      pairs_(tree_plan(ranks_, ranks_).reduce) {}

SharedTransport::~SharedTransport() {
  space_->state(rank_).left.store(true, std::memory_order_release);
  wake_sleepers(space_->control());
}

// Two meetings: after the first every rank's memory is ready, after the second the results are.
// Bytes over a rank's memory port: N (reads) + N (writes) for an all-reduce of N bytes.
void SharedTransport::run(const Call& call) {
  const Control& control = space_->control();
  if (control.aborted.load(std::memory_order_acquire) == 2) throw_cause(control.cause);
  ++sequence_;
  if (is_small(call)) return run_small(call);
  const std::size_t count = call.count();
  chunk_ = chunk_elements(call);
  post(call);
  meet(call);
  compare_records();
  bool staged = false;
  for (int r = 0; r < ranks_; ++r) {
    staged = staged || record(r).staged_input || record(r).staged_output;
  }
  const std::size_t step = staged ? chunk_ : std::max<std::size_t>(count, 1);
  if (call.record.kind != CallKind::barrier) {
    for (std::size_t begin = 0; begin == 0 || begin < count; begin += step) {
      const Slice chunk{begin, std::min(count, begin + step)};
      if (begin > 0) {
        stage_in(call, chunk);
        meet(call);
      }
      if (chunk.size() > 0) work(call, chunk);
      meet(call);
      stage_out(call, chunk);
    }
  }
}

void SharedTransport::abort(const Cause& cause) {
  Control& control = space_->control();
  std::uint32_t none = 0;
  if (!control.aborted.compare_exchange_strong(none, 1)) return;
  control.cause = cause;
  control.aborted.store(2, std::memory_order_release);
  wake_sleepers(control);
}

void SharedTransport::post_record(const Call& call) {
  RankState& mine = space_->state(rank_);
  CallRecord& record = mine.records[sequence_ % 2].call;
  record = call.record;
  record.sequence = sequence_;
  mine.mail[sequence_ % 2].digest = record.digest;
}

void SharedTransport::post(const Call& call) {
  post_record(call);
  SharedRecord& mine = space_->state(rank_).records[sequence_ % 2];
  mine.staged_input = mine.staged_output = false;
  const std::size_t size = call.element_size();
  const bool scatters = call.record.kind == CallKind::reduce_scatter;
  const std::size_t input_bytes =
      call.count() * size * static_cast<std::size_t>(scatters ? ranks_ : 1);
  for (int i = 0; i < call.input_count; ++i) {
    if (!space_->locate(call.inputs[i], input_bytes, mine.inputs[i])) mine.staged_input = true;
  }
  for (int i = 0; mine.staged_input && i < call.input_count; ++i) {
    mine.inputs[i] = {kBounce, static_cast<std::size_t>(i) * chunk_ * size};
  }
  const bool pushed =
      call.record.kind == CallKind::all_reduce || call.record.kind == CallKind::all_reduce_tree;
  if (pushed && !space_->locate(call.output, call.count() * size, mine.output)) {
    mine.staged_output = true;
    mine.output = {kBounce, 0};
  }
  stage_in(call, {0, std::min(call.count(), chunk_)});
}

// Whoever sees that all have come wakes those who sleep. Its store comes before its look at
// `sleepers`, as a sleeper's entry there comes before its last look at who has come: one sees the
// other.
void SharedTransport::meet(const Call& call) {
  Control& control = space_->control();
  space_->state(rank_).mail[sequence_ % 2].arrivals.store(++meetings_, std::memory_order_release);
  if (!all_here() && !wait_for_all(call)) return;  // who woke this rank has woken all
  full_fence();
  if (control.sleepers.load(std::memory_order_relaxed) > 0) wake_sleepers(control);
}

bool SharedTransport::here(int rank) const {
  return mail(rank).arrivals.load(std::memory_order_acquire) >= meetings_;
}

bool SharedTransport::all_here() const {
  for (int r = 0; r < ranks_; ++r) {
    if (!here(r)) return false;
  }
  return true;
}

bool SharedTransport::wait_for_all(const Call& call) {
  Control& control = space_->control();
  Patience patience(watch_);
  bool slept = false;
  while (!all_here()) {
    if (!patience.exhausted()) continue;
    try {
      check_failures(call, patience.late());
    } catch (const Error&) {
      // A peer may have seen this meeting through and failed after it.
      if (all_here()) break;
      throw;
    }
    const std::uint32_t wakes = control.wakes.load(std::memory_order_seq_cst);
    control.sleepers.fetch_add(1, std::memory_order_seq_cst);
    slept = !all_here() && control.aborted.load(std::memory_order_seq_cst) != 2;
    if (slept) futex_sleep(control.wakes, wakes);
    control.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  }
  return !slept;
}

void SharedTransport::check_failures(const Call& call, bool late) {
  const Control& control = space_->control();
  if (control.aborted.load(std::memory_order_acquire) == 2) throw_cause(control.cause);
  if (watch_.closing.load(std::memory_order_relaxed)) {
    throw Error(ErrorKind::peer, watch_.place(),
                cat("left in the middle of ", short_name(call.record)));
  }
  for (int r = 0; r < ranks_; ++r) {
    if (here(r)) continue;
    const bool left = space_->state(r).left.load(std::memory_order_acquire);
    if (!left && space_->alive(r)) continue;
    // It may have arrived between the two looks.
    if (here(r)) continue;
    fail(cat(watch_.names[r], left ? " has left" : " is gone", ", waited for in ",
             short_name(call.record), "; ", late_ranks()));
  }
  if (!late) return;
  const std::string who = late_ranks();
  if (!who.empty()) fail(late_message(watch_, call.record, who));  // empty: the last has just come
}

void SharedTransport::fail(const std::string& message) {
  const Cause mine = make_cause(rank_, exit_code(ErrorKind::peer), watch_.place(), message);
  abort(mine);
  const Control& control = space_->control();
  throw_cause(control.aborted.load(std::memory_order_acquire) == 2 ? control.cause : mine);
}

std::string SharedTransport::late_ranks() const {
  constexpr int kNamed = 4;
  std::string text;
  int late = 0;
  for (int r = 0; r < ranks_; ++r) {
    if (here(r)) continue;
    if (++late > kNamed) continue;
    // A late rank cannot write this record: that needs two more calls, and we are in the next.
    const SharedRecord& before = space_->state(r).records[(sequence_ - 1) % 2];
    text += cat(late > 1 ? "; " : "",
                last_finished(cat("rank ", r), sequence_ > 1 ? before.call.name.data() : ""));
  }
  if (late > kNamed) text += cat("; and ", late - kNamed, " more");
  return text;
}

void SharedTransport::compare_records() {
  for (int r = 1; r < ranks_; ++r) {
    if (mail(r).digest == mail(0).digest) continue;
    throw_mismatch(watch_.names[0], record(0).call, watch_.names[r], record(r).call);
  }
}

std::size_t SharedTransport::chunk_elements(const Call& call) const {
  std::size_t arrays = 1;
  if (call.record.kind == CallKind::reduce_scatter) arrays = static_cast<std::size_t>(ranks_);
  if (call.tree != nullptr) arrays = static_cast<std::size_t>(call.tree->most);
  const std::size_t unit = kAlignment / call.element_size();
  const std::size_t fits = SharedSpace::kBounceBytes / (arrays * call.element_size());
  return std::max(fits / unit * unit, unit);
}

void SharedTransport::stage_in(const Call& call, Slice chunk) {
  if (!record(rank_).staged_input) return;
  const std::size_t size = call.element_size();
  std::byte* to = space_->bounce_in(rank_);
  const bool scatters = call.record.kind == CallKind::reduce_scatter;
  const int arrays = scatters ? ranks_ : call.input_count;
  for (int i = 0; i < arrays; ++i) {
    const std::byte* from = scatters
                                ? call.inputs[0] + static_cast<std::size_t>(i) * call.count() * size
                                : call.inputs[i];
    copy_bytes(to + static_cast<std::size_t>(i) * chunk_ * size, from + chunk.begin * size,
               chunk.size() * size);
  }
}

void SharedTransport::stage_out(const Call& call, Slice chunk) {
  if (!record(rank_).staged_output) return;
  const std::size_t size = call.element_size();
  copy_bytes(call.output + chunk.begin * size, space_->bounce_out(rank_), chunk.size() * size);
}

const SharedRecord& SharedTransport::record(int rank) const {
  return space_->state(rank).records[sequence_ % 2];
}

// `element` counts from the begin of the array; a bounce buffer holds one chunk of it.
const std::byte* SharedTransport::input(int rank, int index, const Call& call,
                                        std::size_t element) const {
  const Location& at = record(rank).inputs[index];
  const std::size_t size = call.element_size();
  if (at.region == kBounce) {
    return space_->bounce_in(rank) + at.offset + element % chunk_ * size;
  }
  return space_->resolve(rank, at) + element * size;
}

std::byte* SharedTransport::output(int rank, const Call& call, std::size_t element) const {
  const Location& at = record(rank).output;
  const std::size_t size = call.element_size();
  if (at.region == kBounce) return space_->bounce_out(rank) + element % chunk_ * size;
  return space_->resolve(rank, at) + element * size;
}

void SharedTransport::work(const Call& call, Slice chunk) {
  switch (call.record.kind) {
    case CallKind::all_reduce:
    case CallKind::all_reduce_tree:
      return reduce(call, chunk);
    case CallKind::reduce_scatter:
      return reduce_scatter(call, chunk);
    case CallKind::all_gather:
      return gather(call, chunk);
    case CallKind::broadcast:
      return broadcast(call, chunk);
    case CallKind::barrier:
      return;
  }
}

// Every rank reduces its slice, reading all ranks' inputs, and writes it to all ranks' outputs.
// 2 meetings; a rank reads N bytes (p N with p partial sums a rank) and writes N.
void SharedTransport::reduce(const Call& call, Slice chunk) {
  const Slice mine = slice_of(chunk.size(), ranks_, rank_, call.element_size());
  if (mine.size() == 0) return;
  const std::size_t first = chunk.begin + mine.begin;
  const bool ring = call.tree == nullptr && call.record.algorithm != Algorithm::ordered_tree;
  sources_.clear();
  outputs_.clear();
  for (int k = 0; k < ranks_; ++k) {
    // Around a ring a slice starts behind its owner, where it ends up complete.
    const int r = ring ? (rank_ + 1 + k) % ranks_ : k;
    const int count = call.tree != nullptr ? call.tree->count(r) : 1;
    for (int i = 0; i < count; ++i) sources_.push_back(input(r, i, call, first));
    outputs_.push_back(output(k, call, first));
  }
  const ReducePlan& plan = call.tree != nullptr ? call.tree->reduce : ring ? chain_ : pairs_;
  reducer_.run(plan, call.record.dtype, call.record.op, ranks_, sources_, outputs_, mine.size());
}

// 2 meetings; a rank reads N bytes and writes N/n.
void SharedTransport::reduce_scatter(const Call& call, Slice chunk) {
  const std::size_t size = call.element_size(), row = static_cast<std::size_t>(rank_);
  sources_.clear();
  for (int k = 0; k < ranks_; ++k) {
    const int r = (rank_ + 1 + k) % ranks_;
    const bool staged = record(r).inputs[0].region == kBounce;
    const std::size_t stride = staged ? chunk_ : call.count();
    const std::byte* base = input(r, 0, call, 0) + row * stride * size;
    sources_.push_back(staged ? base : base + chunk.begin * size);
  }
  outputs_.assign(1, call.output + chunk.begin * size);
  reducer_.run(chain_, call.record.dtype, call.record.op, ranks_, sources_, outputs_, chunk.size());
}

// 2 meetings; a rank reads and writes n N bytes.
void SharedTransport::gather(const Call& call, Slice chunk) {
  const std::size_t size = call.element_size();
  for (int k = 0; k < ranks_; ++k) {
    const int r = (rank_ + k) % ranks_;
    const std::size_t at = static_cast<std::size_t>(r) * call.count() + chunk.begin;
    copy_bytes(call.output + at * size, input(r, 0, call, chunk.begin), chunk.size() * size);
  }
}

// 2 meetings; every rank but the root reads and writes N bytes.
void SharedTransport::broadcast(const Call& call, Slice chunk) {
  const int root = call.record.parameter;
  if (rank_ == root) return;
  const std::size_t size = call.element_size();
  copy_bytes(call.output + chunk.begin * size, input(root, 0, call, chunk.begin),
             chunk.size() * size);
}

}  // namespace peal
