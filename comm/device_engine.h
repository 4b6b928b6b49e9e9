// What a GPU and NCCL do for the calls of a communicator, each in order on one stream: the calls
// are made of these by device_collectives, whatever carries them out (NCCL; in tests, the CPU).
//
// Memory is the device's. Counts are elements, of one rank's block where a call has blocks; none is
// 0. Throws Error(peer) when peers cannot be reached, Error(internal) when the device fails.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>

#include "comm/element_sum.h"
#include "core/device/stream.h"

namespace peal {

class DeviceEngine {
 public:
  virtual ~DeviceEngine() = default;
  virtual Stream& stream() = 0;

  // `op` is not mean. In place as communicator.h says; y of reduce is used on the root only.
  virtual void all_reduce(const std::byte* x, std::byte* y, std::size_t count, DType dtype,
                          ReduceOp op) = 0;
  virtual void reduce(const std::byte* x, std::byte* y, std::size_t count, DType dtype, ReduceOp op,
                      int root) = 0;
  virtual void reduce_scatter(const std::byte* x, std::byte* y, std::size_t count, DType dtype,
                              ReduceOp op) = 0;
  virtual void all_gather(const std::byte* x, std::byte* y, std::size_t bytes) = 0;
  virtual void broadcast(std::byte* x, std::size_t bytes, int root) = 0;

  virtual void send(const std::byte* from, std::size_t bytes, int to) = 0;
  virtual void receive(std::byte* to, std::size_t bytes, int from) = 0;
  // All of the above that is called in between moves at once.
  virtual void begin_group() = 0;
  virtual void end_group() = 0;

  // The sources of `plan`, which stays where it is, into y.
  virtual void sum(const ReducePlan& plan, const SumSources& sources, std::byte* y,
                   std::size_t count, DType dtype, ReduceOp op, int divisor) = 0;
  virtual void divide(std::byte* y, std::size_t count, DType dtype, int divisor) = 0;
  // Memory of the engine, aligned to kAlignment, until the next call of this; grows, then stays.
  virtual std::byte* scratch(std::size_t bytes) = 0;

  // Of a call whose part on the device was enqueued, with this event behind it: whether it has
  // ended.
  virtual bool ended(const Event& end) = 0;
  virtual void check() = 0;  // throws when it never will
  // Ends what is under way, with undefined results; nothing is asked of the engine afterwards.
  virtual void abort() noexcept = 0;
  // When all calls have ended, on every rank.
  virtual void close() = 0;
};

// What an engine calls again and again while the host waits for peers, with the name of what it has
// asked for and since when. Throws when a peer has failed, and when the deadline has passed, with
// the ranks that are late; the engine was aborted then.
using Look = std::function<void(const char* asked, std::chrono::steady_clock::time_point since)>;

// Collective over `side`, a communicator of host memory over the same ranks.
using MakeEngine =
    std::function<std::unique_ptr<DeviceEngine>(Communicator& side, const Look& look)>;

}  // namespace peal
