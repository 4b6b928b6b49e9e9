#include "comm/shared.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "comm/futex.h"
#include "comm/index.h"
#include "comm/stream_copy.h"
#include "core/base/error.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

constexpr std::chrono::milliseconds kLastWords{200};

constexpr std::chrono::microseconds kNap{20'000}, kShortNap{200};

void full_fence() {
  __sync_synchronize();  // the thread sanitizer refuses atomic_thread_fence
}

std::size_t bounds_bytes(std::size_t ranks) {
  return align_up(2 * (ranks + 1) * sizeof(std::int64_t));
}

// What a rank has beside its bounce buffers.
std::size_t per_rank(std::size_t ranks) {
  return sizeof(RankState) + 2 * bounds_bytes(ranks) + ranks * sizeof(PairState);
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

void wake_sleepers(Control& control) {
  control.wakes.fetch_add(1, std::memory_order_seq_cst);
  futex_wake_all(control.wakes);
}

std::size_t SharedSpace::bytes(int ranks) {
  const auto n = static_cast<std::size_t>(ranks);
  return sizeof(Control) + n * (per_rank(n) + 2 * kBounceBytes);
}

RankState& SharedSpace::state(int rank) const {
  return reinterpret_cast<RankState*>(base_ + sizeof(Control))[rank];
}

std::int64_t* SharedSpace::bounds(int rank, std::uint64_t sequence) const {
  const auto n = static_cast<std::size_t>(ranks_), r = static_cast<std::size_t>(rank);
  std::byte* first = base_ + sizeof(Control) + n * sizeof(RankState);
  return reinterpret_cast<std::int64_t*>(first + (2 * r + sequence % 2) * bounds_bytes(n));
}

PairState& SharedSpace::pair(int rank, int peer) const {
  const auto n = static_cast<std::size_t>(ranks_);
  std::byte* first = base_ + sizeof(Control) + n * (sizeof(RankState) + 2 * bounds_bytes(n));
  return reinterpret_cast<PairState*>(first)[at(rank) * n + at(peer)];
}

std::byte* SharedSpace::bounce_in(int rank) const {
  const auto n = static_cast<std::size_t>(ranks_), r = static_cast<std::size_t>(rank);
  std::byte* first = base_ + sizeof(Control) + n * per_rank(n);
  return first + r * 2 * kBounceBytes;
}

void SharedSpace::attach(std::byte* base, int ranks, bool construct) {
  base_ = base;
  ranks_ = ranks;
  if (!construct) return;
  new (base) Control;
  for (int r = 0; r < ranks; ++r) {
    new (&state(r)) RankState;
    for (int p = 0; p < ranks; ++p) new (&pair(r, p)) PairState;
  }
}

std::shared_ptr<SharedSpace> make_thread_space(int ranks) {
  return std::make_shared<ThreadSpace>(ranks);
}

SharedTransport::SharedTransport(std::shared_ptr<SharedSpace> space, const Watch& watch,
                                 std::size_t most_mail, Beyond* beyond)
    : space_(std::move(space)),
      watch_(watch),
      beyond_(beyond),
      most_mail_(std::min(most_mail, Mail::kPayload)),
      ranks_(space_->ranks()),
      rank_(watch.rank),
      chain_(chain_plan(ranks_)),
      pairs_(tree_plan(ranks_, ranks_).reduce),
      lines_(at(ranks_), 1),
      letters_(at(ranks_) * Mail::kPayload),
      peers_(at(ranks_)) {}

SharedTransport::~SharedTransport() {
  space_->state(rank_).left.store(true, std::memory_order_release);
  wake_sleepers(space_->control());
}

// Two meetings: after the first every rank's memory is ready, after the second the results are.
// Bytes over a rank's memory port: N (reads) + N (writes) for an all-reduce of N bytes.
void SharedTransport::run(const Call& call) {
  if (const Cause* cause = failure()) throw_cause(*cause);
  if (call.is_pair()) return run_pair(call);
  if (!begun_) begin_small(call);
  if (begun_) return finish_small(call);
  ++sequence_;
  chunk_ = chunk_elements(call);
  post(call);
  meet(call);
  compare_records();
  compare_counts(call);
  claim_mail();
  if (call.record.kind == CallKind::barrier || call.only_meets) return;
  bool staged = false;
  apart_ = false;
  std::int64_t longest = 0;
  for (int r = 0; r < ranks_; ++r) {
    staged = staged || record(r).staged_input || record(r).staged_output;
    apart_ = apart_ || record(r).apart;
    longest = std::max(longest, record(r).longest);
  }
  const auto end = static_cast<std::size_t>(longest);
  const std::size_t step = staged || apart_ ? chunk_ : std::max<std::size_t>(end, 1);
  for (std::size_t begin = 0; begin == 0 || begin < end; begin += step) {
    const Slice chunk{begin, std::min(end, begin + step)};
    if (begin > 0 && staged) {
      stage_in(call, chunk);
      meet(call);
    }
    if (chunk.size() > 0) work(call, chunk);
    if (staged || chunk.end == end) meet(call);
    stage_out(call, chunk);
  }
  if (!apart_ || !call.reduces_whole()) return;
  fetch_slices(call);
  meet(call);
}

void SharedTransport::abort(const Cause& cause) {
  Control& control = space_->control();
  std::uint32_t none = 0;
  if (!control.aborted.compare_exchange_strong(none, 1)) return;
  control.cause = cause;
  control.aborted.store(2, std::memory_order_release);
  wake_sleepers(control);
}

const Cause* SharedTransport::failure() {
  const Control& control = space_->control();
  return control.aborted.load(std::memory_order_acquire) == 2 ? &control.cause : nullptr;
}

void SharedTransport::wait_elsewhere(bool long_since) {
  space_->state(rank_).elsewhere.store(long_since, std::memory_order_release);
}

void SharedTransport::throw_if_failed() {
  if (const Cause* cause = failure()) throw_cause(*cause);
  if (const Cause* cause = watch_.family_failure(*this)) throw_cause(*cause);
}

// A rank that ends because of an error destroys its groups first and says why right after.
bool SharedTransport::has_left(int rank) {
  if (!space_->state(rank).left.load(std::memory_order_acquire)) return false;
  const auto now = std::chrono::steady_clock::now();
  if (left_since_ == std::chrono::steady_clock::time_point{}) left_since_ = now;
  return now - left_since_ > kLastWords;
}

int SharedTransport::gone() const {
  for (int r = 0; r < ranks_; ++r) {
    if (!space_->alive(r) && !space_->state(r).left.load(std::memory_order_acquire)) return r;
  }
  return -1;
}

void SharedTransport::post_record(const Call& call) {
  RankState& mine = space_->state(rank_);
  CallRecord& record = mine.records[sequence_ % 2].call;
  record = call.record;
  record.sequence = sequence_;
  const auto* digest = reinterpret_cast<const std::byte*>(&record.digest);
  mine.mail[sequence_ % 2].put(0, digest, sizeof record.digest);
}

void SharedTransport::post(const Call& call) {
  post_record(call);
  SharedRecord& mine = space_->state(rank_).records[sequence_ % 2];
  mine.longest = call.longest;
  mine.staged_input = mine.staged_output = mine.apart = false;
  const bool fetched = is_fetched(call);
  const std::size_t size = call.element_size();
  const auto place = [&](const std::byte* data, std::size_t bytes, Location& location,
                         bool& staged) {
    if (space_->locate(data, bytes, location)) return;
    location = {kPrivate, reinterpret_cast<std::uint64_t>(data)};
    (fetched ? mine.apart : staged) = true;
  };
  const auto bytes_of = [&](int i) {
    return call.is_group() ? call.part(i).size() * size
                           : static_cast<std::size_t>(call.input_elements) * size;
  };
  for (int i = 0; i < call.input_count; ++i) {
    place(call.inputs[at(i)], bytes_of(i), mine.inputs[at(i)], mine.staged_input);
  }
  // Other collectives write to no memory but their own.
  const int written = call.reduces_whole() ? call.output_count : 0;
  for (int i = 0; i < written; ++i) {
    const std::size_t bytes = call.is_group() ? bytes_of(i) : call.count() * size;
    place(call.outputs[at(i)], bytes, mine.outputs[at(i)], mine.staged_output);
  }
  if (call.record.kind == CallKind::all_to_all && call.bounds != nullptr) {
    std::copy_n(call.bounds, call.bound_count, space_->bounds(rank_, sequence_));
  }
  if (!call.only_meets) {
    stage_in(call, {0, std::min(static_cast<std::size_t>(call.longest), chunk_)});
  }
}

void SharedTransport::meet(const Call& call) {
  arrive();
  wake_if_last();
  await(call);
}

void SharedTransport::arrive() {
  Mail::Line& first = space_->state(rank_).mail[sequence_ % 2].lines[0];
  first.arrivals.store(++meetings_, std::memory_order_release);
}

// The last to come wakes those who sleep. Its store comes before its look at `sleepers` and at who
// has come, as a sleeper's entry there comes before its last look at who has come: one sees the
// other. Of two who come last at the same time, one sees both.
void SharedTransport::wake_if_last() {
  Control& control = space_->control();
  full_fence();
  if (control.sleepers.load(std::memory_order_acquire) > 0 && all_here()) wake_sleepers(control);
}

void SharedTransport::await(const Call& call) {
  if (!all_here()) wait_for_all(call);
}

bool SharedTransport::here(int rank) const {
  const Mail::Line& last = mail(rank).lines[lines_[at(rank)] - 1];
  return last.arrivals.load(std::memory_order_acquire) >= meetings_;
}

bool SharedTransport::all_here() const {
  for (int r = 0; r < ranks_; ++r) {
    if (!here(r)) return false;
  }
  return true;
}

void SharedTransport::wait_for_all(const Call& call) {
  Control& control = space_->control();
  Patience patience(watch_);
  while (!all_here()) {
    if (!patience.exhausted()) continue;
    if (patience.long_since()) say_waiting(true);
    try {
      const bool late = patience.late();
      check_failures(call, late);
      if (beyond_ != nullptr) beyond_->look(late);
    } catch (const Error&) {
      // A peer may have seen this meeting through and failed after it.
      if (all_here()) break;
      throw;
    }
    const std::uint32_t wakes = control.wakes.load(std::memory_order_seq_cst);
    control.sleepers.fetch_add(1, std::memory_order_seq_cst);
    if (!all_here() && control.aborted.load(std::memory_order_seq_cst) != 2) {
      futex_sleep(control.wakes, wakes, beyond_ != nullptr ? kShortNap : kNap);
    }
    control.sleepers.fetch_sub(1, std::memory_order_seq_cst);
  }
  if (patience.said_long()) say_waiting(false);
}

void SharedTransport::say_waiting(bool long_since) {
  watch_.say_waiting(*this, long_since);
  if (beyond_ != nullptr) beyond_->wait_long(long_since);
}

void SharedTransport::check_failures(const Call& call, bool late) {
  throw_if_failed();
  if (watch_.closing.load(std::memory_order_relaxed)) {
    throw Error(ErrorKind::peer, watch_.place(),
                cat("left in the middle of ", short_name(call.record)));
  }
  const CallRecord& told = beyond_ != nullptr ? beyond_->call() : call.record;
  for (int r = 0; r < ranks_; ++r) {
    if (here(r)) continue;
    const bool left = has_left(r);
    if (!left && (space_->alive(r) || space_->state(r).left.load())) continue;
    // It may have arrived between the two looks.
    if (here(r)) continue;
    fail(peer_cause(cat(watch_.names[at(r)], left ? " has left" : " is gone", ", waited for in ",
                        short_name(told), "; ", last_of(r))));
  }
  if (!late || beyond_ != nullptr) return;
  const std::string who = late_ranks();
  if (who.empty()) return;  // the last has just come
  fail(peer_cause(late_message(watch_, call.record, who)));
}

Cause SharedTransport::peer_cause(const std::string& message) const {
  return make_cause(rank_, exit_code(ErrorKind::peer), watch_.place(), message);
}

void SharedTransport::fail(const Cause& mine) {
  abort(mine);
  const Control& control = space_->control();
  throw_cause(control.aborted.load(std::memory_order_acquire) == 2 ? control.cause : mine);
}

std::string SharedTransport::late_ranks() const {
  constexpr int kNamed = 4;
  std::string text;
  int late = 0, elsewhere = 0;
  for (int r = 0; r < ranks_; ++r) {
    if (here(r)) continue;
    if (space_->state(r).elsewhere.load(std::memory_order_acquire)) {
      ++elsewhere;
      continue;
    }
    if (++late > kNamed) continue;
    text += cat(late > 1 ? "; " : "", last_of(r));
  }
  if (late > kNamed) text += cat("; and ", late - kNamed, " more");
  return late > 0 || elsewhere == 0 ? text : std::string(kAllElsewhere);
}

// What a rank that is late last finished.
std::string SharedTransport::last_of(int rank) const {
  // It cannot write this record: that needs two more calls, and we are in the next.
  const SharedRecord& before = space_->state(rank).records[(sequence_ - 1) % 2];
  return last_finished(watch_.label(rank), sequence_ > 1 ? before.call.name.data() : "");
}

void SharedTransport::compare_records() {
  for (int r = 1; r < ranks_; ++r) {
    if (mail(r).digest() == mail(0).digest()) continue;
    throw_mismatch(watch_.names[0], record(0).call, watch_.names[r], record(r).call);
  }
}

// What any two ranks say of each other in a ragged all_to_all; every rank finds the same.
void SharedTransport::compare_counts(const Call& call) {
  if (call.record.kind != CallKind::all_to_all || call.bounds == nullptr) return;
  const auto size = [](const std::int64_t* bounds) { return bounds[1] - bounds[0]; };
  for (int from = 0; from < ranks_; ++from) {
    for (int to = 0; to < ranks_; ++to) {
      const std::int64_t sent = size(space_->bounds(from, sequence_) + to);
      const std::int64_t expected = size(space_->bounds(to, sequence_) + ranks_ + 1 + from);
      if (sent == expected) continue;
      throw_cause(count_mismatch(watch_, record(0).call, {from, to}, sent, expected));
    }
  }
}

const SharedRecord& SharedTransport::record(int rank) const {
  return space_->state(rank).records[sequence_ % 2];
}

// `element` counts from the begin of the array, or of the first tensor of a group; a bounce buffer
// holds one chunk of it.
const std::byte* SharedTransport::input(int rank, int index, const Call& call,
                                        std::size_t element) const {
  const std::size_t size = call.element_size();
  const std::size_t first = call.is_group() ? call.part(index).begin : 0;
  if (rank == rank_) return call.inputs[at(index)] + (element - first) * size;
  if (record(rank).staged_input) {
    const std::size_t array = call.is_group() ? 0 : at(index) * chunk_;
    return space_->bounce_in(rank) + (array + element % chunk_) * size;
  }
  return reach(rank, record(rank).inputs[at(index)]) + (element - first) * size;
}

std::byte* SharedTransport::output(int rank, int index, const Call& call,
                                   std::size_t element) const {
  const std::size_t size = call.element_size(), first = call.part(index).begin;
  if (rank == rank_) return call.outputs[at(index)] + (element - first) * size;
  if (record(rank).staged_output) return space_->bounce_out(rank) + element % chunk_ * size;
  return reach(rank, record(rank).outputs[at(index)]) + (element - first) * size;
}

// This rank's block of a rank's input, from `chunk` on.
const std::byte* SharedTransport::input_block(int rank, const Call& call, Slice chunk) const {
  const std::size_t size = call.element_size();
  if (rank == rank_) return call.inputs[0] + (call.block(rank_).begin + chunk.begin) * size;
  if (record(rank).staged_input) return space_->bounce_in(rank) + at(rank_) * chunk_ * size;
  std::size_t first = call.block(rank_).begin;
  if (call.record.kind == CallKind::all_to_all && call.bounds != nullptr) {
    first = static_cast<std::size_t>(space_->bounds(rank, sequence_)[rank_]);
  }
  return reach(rank, record(rank).inputs[0]) + (first + chunk.begin) * size;
}

// An address of that rank's own if its memory is private.
std::byte* SharedTransport::reach(int rank, const Location& location) const {
  if (location.region == kPrivate) return reinterpret_cast<std::byte*>(location.offset);
  return space_->resolve(rank, location);
}

void SharedTransport::work(const Call& call, Slice chunk) {
  switch (call.record.kind) {
    case CallKind::all_reduce:
    case CallKind::all_reduce_tree:
    case CallKind::reduce:
      return reduce(call, chunk);
    case CallKind::reduce_scatter:
      return reduce_scatter(call, chunk);
    case CallKind::reduce_scatter_tree:
      return reduce_scatter_tree(call, chunk);
    case CallKind::all_gather:
    case CallKind::gather:
    case CallKind::scatter:
    case CallKind::all_to_all:
    case CallKind::broadcast:
      return pull(call, chunk);
    case CallKind::send:
    case CallKind::recv:
    case CallKind::barrier:
      return;
  }
}

// Every rank reduces its slice, reading all ranks' inputs, and writes it to all ranks' outputs (of
// a `reduce`: to the root's). 2 meetings; a rank reads N bytes (p N with p partial sums a rank) and
// writes N (N/n). A group is one array of N bytes. With private memory see shared_private.cpp.
void SharedTransport::reduce(const Call& call, Slice chunk) {
  const Slice mine = slice_in(call, chunk, rank_);
  for (int i = 0; i < call.parts(); ++i) {
    const Slice elements = intersection(call.part(i), mine);
    if (elements.size() > 0) reduce_part(call, i, elements);
  }
}

// What a rank reduces of a chunk.
Slice SharedTransport::slice_in(const Call& call, Slice chunk, int rank) const {
  const Slice slice = slice_of(chunk.size(), ranks_, rank, call.element_size());
  return {chunk.begin + slice.begin, chunk.begin + slice.end};
}

void SharedTransport::reduce_part(const Call& call, int part, Slice elements) {
  const bool ring = call.tree == nullptr && call.record.algorithm != Algorithm::ordered_tree;
  collect_sources(call, part, elements, ring);
  outputs_.clear();
  bool passes_by = streams(call) && !apart_;
  for (int k = 0; k < ranks_; ++k) {
    const bool receives = call.record.kind != CallKind::reduce || call.record.parameter == k;
    const bool reached = !apart_ || k == rank_;  // others fetch it
    if (receives && reached) outputs_.push_back(output(k, part, call, elements.begin));
    passes_by = passes_by && !record(k).staged_output;
  }
  const ReducePlan& plan = call.tree != nullptr ? call.tree->reduce : ring ? chain_ : pairs_;
  const auto stays = [&](const std::byte* output) {
    return std::find(sources_.begin(), sources_.end(), output) != sources_.end();
  };
  const bool stream = passes_by && std::none_of(outputs_.begin(), outputs_.end(), stays);
  reducer_.run(plan, call.record.dtype, call.record.op, ranks_, sources_, outputs_, elements.size(),
               stream);
}

// These elements of all ranks' inputs; around a ring a slice starts behind its owner, where it ends
// up complete.
void SharedTransport::collect_sources(const Call& call, int part, Slice elements, bool ring) {
  sources_.clear();
  brought_ = 0;
  for (int k = 0; k < ranks_; ++k) {
    const int r = ring ? (rank_ + 1 + k) % ranks_ : k;
    const int partials = call.tree != nullptr ? call.tree->count(r) : 1;
    for (int i = part; i < part + partials; ++i) {
      sources_.push_back(bring(call, r, i, input(r, i, call, elements.begin), elements.size()));
    }
  }
}

// Every rank reduces its block, in the order of call.tree. 2 meetings; a rank reads N bytes (p N
// with p partial sums a rank) and writes N/n.
void SharedTransport::reduce_scatter_tree(const Call& call, Slice chunk) {
  const Slice block = call.block(rank_), mine = intersection(block, chunk);
  const std::size_t step = apart_ ? brought_at_once(call) : mine.size();
  for (std::size_t begin = mine.begin; begin < mine.end; begin += step) {
    const Slice part{begin, std::min(mine.end, begin + step)};
    collect_sources(call, /*part=*/0, part, /*ring=*/false);
    outputs_.assign(1, call.output() + (part.begin - block.begin) * call.element_size());
    reducer_.run(call.tree->reduce, call.record.dtype, call.record.op, ranks_, sources_, outputs_,
                 part.size());
  }
}

// 2 meetings; a rank reads N bytes and writes N/n.
void SharedTransport::reduce_scatter(const Call& call, Slice chunk) {
  const Slice block = call.block(rank_), mine = clip(block, chunk);
  if (mine.size() == 0) return;
  sources_.clear();
  brought_ = 0;
  for (int k = 0; k < ranks_; ++k) {
    const int r = (rank_ + 1 + k) % ranks_;
    sources_.push_back(bring(call, r, /*index=*/0, input_block(r, call, chunk), mine.size()));
  }
  outputs_.assign(1, call.output() + (mine.begin - block.begin) * call.element_size());
  reducer_.run(chain_, call.record.dtype, call.record.op, ranks_, sources_, outputs_, mine.size());
}

// Every rank reads what it is to receive. 2 meetings; a rank reads and writes as many bytes as its
// output has.
void SharedTransport::pull(const Call& call, Slice chunk) {
  const std::size_t size = call.element_size();
  for (int k = 0; k < ranks_; ++k) {
    const int r = (rank_ + k) % ranks_;
    const Slice part = clip(call.incoming(rank_, r), chunk);
    if (part.size() == 0) continue;
    const std::byte* from =
        call.has_input_blocks() ? input_block(r, call, chunk) : input(r, 0, call, chunk.begin);
    std::byte* to = call.output() + part.begin * size;
    if (is_apart(r, record(r).inputs[0])) {
      fetch(call, r, to, from, part.size() * size);
    } else {
      copy_out(call, to, from, part.size() * size);
    }
  }
  stream_fence();
}

}  // namespace peal
