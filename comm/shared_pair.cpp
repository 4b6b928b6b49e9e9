// Send and recv in shared memory: the two ranks post what they call, compare it, and the receiver
// copies out of the sender's memory, or out of its bounce buffer chunk by chunk.
#include <algorithm>
#include <cstring>

#include "comm/futex.h"
#include "comm/index.h"
#include "comm/shared.h"
#include "core/base/error.h"

namespace peal {

// One meeting of the two; each reads or writes N bytes (the sender none from allocate()).
void SharedTransport::run_pair(const Call& call) {
  const int peer = call.record.parameter;
  const std::uint64_t k = ++peers_[at(peer)].calls;
  post_pair(call);
  const PairState& theirs = space_->pair(peer, rank_);
  wait_pair(call, theirs.posted, k);
  const CallRecord& mine = space_->pair(rank_, peer).records[k % 2].call;
  const CallRecord& other = theirs.records[k % 2].call;
  if (!matches(mine, other)) fail(pair_mismatch(watch_, mine, other));
  if (call.only_meets) return;
  call.record.kind == CallKind::send ? send(call) : recv(call);
}

void SharedTransport::post_pair(const Call& call) {
  const int peer = call.record.parameter;
  const std::uint64_t k = peers_[at(peer)].calls;
  PairState& state = space_->pair(rank_, peer);
  PairState::Record& mine = state.records[k % 2];
  mine.call = call.record;
  mine.call.sequence = k;
  mine.staged = false;
  if (call.record.kind == CallKind::send && !call.only_meets) {
    mine.staged = !space_->locate(call.inputs[0], call.count() * call.element_size(), mine.input);
  }
  state.posted.store(k, std::memory_order_release);
  ring(peer);
}

void SharedTransport::send(const Call& call) {
  const int peer = call.record.parameter;
  Peer& counts = peers_[at(peer)];
  PairState& mine = space_->pair(rank_, peer);
  const bool staged = mine.records[counts.calls % 2].staged;
  const std::size_t bytes = call.count() * call.element_size();
  const std::size_t step = staged ? SharedSpace::kBounceBytes : std::max<std::size_t>(bytes, 1);
  for (std::size_t begin = 0; begin == 0 || begin < bytes; begin += step) {
    if (staged) {
      std::memcpy(space_->bounce_in(rank_), call.inputs[0] + begin, std::min(step, bytes - begin));
    }
    mine.filled.store(++counts.sent, std::memory_order_release);
    ring(peer);
    wait_pair(call, space_->pair(peer, rank_).taken, counts.sent);
  }
}

void SharedTransport::recv(const Call& call) {
  const int peer = call.record.parameter;
  Peer& counts = peers_[at(peer)];
  const PairState& theirs = space_->pair(peer, rank_);
  const PairState::Record& record = theirs.records[counts.calls % 2];
  const std::size_t bytes = call.count() * call.element_size();
  const std::size_t step =
      record.staged ? SharedSpace::kBounceBytes : std::max<std::size_t>(bytes, 1);
  for (std::size_t begin = 0; begin == 0 || begin < bytes; begin += step) {
    wait_pair(call, theirs.filled, ++counts.received);
    if (bytes > 0) {
      const std::byte* from =
          record.staged ? space_->bounce_in(peer) : space_->resolve(peer, record.input);
      std::memcpy(call.output() + begin, from, std::min(step, bytes - begin));
    }
    space_->pair(rank_, peer).taken.store(counts.received, std::memory_order_release);
    ring(peer);
  }
}

void SharedTransport::ring(int peer) {
  RankState& state = space_->state(peer);
  state.bell.fetch_add(1, std::memory_order_seq_cst);
  if (state.listening.load(std::memory_order_seq_cst) > 0) futex_wake_all(state.bell);
}

void SharedTransport::wait_pair(const Call& call, const std::atomic<std::uint64_t>& theirs,
                                std::uint64_t goal) {
  RankState& me = space_->state(rank_);
  Patience patience(watch_);
  while (theirs.load(std::memory_order_acquire) < goal) {
    if (!patience.exhausted()) continue;
    if (patience.long_since()) say_long(true);
    check_pair(call, theirs, goal, patience);
    const std::uint32_t rung = me.bell.load(std::memory_order_seq_cst);
    me.listening.store(1, std::memory_order_seq_cst);
    if (theirs.load(std::memory_order_seq_cst) < goal) futex_sleep(me.bell, rung);
    me.listening.store(0, std::memory_order_seq_cst);
  }
  if (patience.said_long()) say_long(false);
}

void SharedTransport::say_long(bool long_since) {
  wait_elsewhere(long_since);
  watch_.say_waiting(*this, long_since);
}

// Nothing is wrong as long as the peer may still come; it may have come between two looks.
void SharedTransport::check_pair(const Call& call, const std::atomic<std::uint64_t>& theirs,
                                 std::uint64_t goal, Patience& patience) {
  const int peer = call.record.parameter;
  const bool late = patience.late();
  const bool alive = space_->alive(peer);
  const bool left = has_left(peer);
  const bool gone = !alive && !space_->state(peer).left.load(std::memory_order_acquire);
  const bool closing = watch_.closing.load(std::memory_order_relaxed);
  const Cause* cause = failure();
  if (cause == nullptr) cause = watch_.family_failure(*this);
  if (theirs.load(std::memory_order_acquire) >= goal) return;
  if (cause != nullptr) throw_cause(*cause);
  const std::string who = watch_.names[at(peer)];
  if (closing) {
    throw Error(ErrorKind::peer, watch_.place(),
                cat("left in the middle of ", short_name(call.record)));
  }
  if (left || gone) {
    fail(peer_cause(
        cat(who, left ? " has left" : " is gone", ", waited for in ", short_name(call.record))));
  }
  if (!late) return;
  const bool came = space_->pair(peer, rank_).posted.load() >= peers_[at(peer)].calls;
  fail(peer_cause(late_message(watch_, call.record,
                               cat(who, came ? " has not ended it" : " has not come to it"))));
}

}  // namespace peal
