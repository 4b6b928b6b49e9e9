// What the queue does for communicators that are made over others and work on streams of their own.
#include "comm/queue.h"

namespace peal {
namespace {

// How often a call on a device is looked at, whose end nobody tells.
constexpr std::chrono::milliseconds kLookAtQueue{1};

}  // namespace

QueuedCommunicator& queue_of(Communicator& comm) {
  auto* queue = dynamic_cast<QueuedCommunicator*>(&comm);
  if (queue == nullptr) {
    fail_internal("device communicator", comm.backend(), " is not a communicator of Peal");
  }
  return *queue;
}

Request QueuedCommunicator::meet(const Call& call) {
  Call meeting;
  meeting.record = call.record;
  meeting.longest = call.longest;
  meeting.bounds = call.bounds;
  meeting.bound_count = call.bound_count;
  meeting.tree = call.tree;
  meeting.only_meets = true;
  return pass(meeting);
}

void QueuedCommunicator::mark_begin(Stream& s, Call& call) {
  call.slot = static_cast<std::uint8_t>(posted_ % kSlots);
  CallEvents& events = events_[call.slot];
  events.end.synchronize();  // of kSlots calls ago
  events.begin.record(s);
  events.ticket = posted_ + 1;
}

// Makes `s` wait for the end of a call that has been run.
void QueuedCommunicator::follow(Stream& s, Request request) {
  if (request.ticket() == 0) return;
  const std::lock_guard lock(mutex_);
  if (only_starts_ && request.ticket() > ended_) throw_if_broken();
  if (posted_ - request.ticket() >= kSlots) return;  // its slot was used again, so it has ended
  s.wait(events_[(request.ticket() - 1) % kSlots].end);
}

bool QueuedCommunicator::ended_on_device(Request request) {
  const std::lock_guard lock(mutex_);
  if (request.ticket() <= ended_ || posted_ - request.ticket() >= kSlots) return true;
  const std::size_t index = (request.ticket() - 1) % kSlots;
  if (!only_starts_) return events_[index].end.done();
  throw_if_broken();
  return transport_->ended(slots_[index].call);
}

// Asks the transport, without the lock, which of the calls that it has started have ended.
void QueuedCommunicator::look_at_started(std::unique_lock<std::mutex>& lock) {
  while (!running_ && !broken_ && ended_ < completed_.load(std::memory_order_relaxed)) {
    running_ = true;
    const Slot& slot = slots_[ended_ % kSlots];
    lock.unlock();
    bool ended = false;
    const std::optional<Error> error = caught([&] {
      ended = transport_->ended(slot.call);
      if (!ended) transport_->look_at(slot.call);
    });
    lock.lock();
    if (error || ended) flight_.ring().ended(ended_ + 1, ended);
    if (error) fail(lock, *error);
    if (ended) ++ended_;
    running_ = false;
    if (waiting_) finished_.notify_all();
    if (!ended) return;
  }
}

void QueuedCommunicator::wait_for_work(std::unique_lock<std::mutex>& lock) {
  if (stopping_) return;
  const bool looks =
      only_starts_ && !broken_ && ended_ < completed_.load(std::memory_order_relaxed);
  if (looks) {
    work_.wait_for(lock, kLookAtQueue);
  } else {
    work_.wait(lock);
  }
}

void QueuedCommunicator::drain() {
  std::unique_lock lock(mutex_);
  while (over() < posted_) {
    throw_if_broken();
    run_or_wait(lock);
  }
}

}  // namespace peal
