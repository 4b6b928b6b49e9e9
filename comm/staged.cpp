// Device memory through pinned host memory and the collectives of the hosts.
#include <algorithm>
#include <array>

#include "comm/device_comm.h"
#include "comm/device_communicator.h"
#include "comm/staging.h"

namespace peal {
namespace {

class StagedTransport final : public Transport {
 public:
  // Collective over `side`.
  StagedTransport(std::unique_ptr<Communicator> side, std::span<CallEvents> events,
                  const Device& device, std::size_t chunk_bytes)
      : side_(std::move(side)),
        events_(events),
        queue_(queue_of(*side_)),
        staging_(side_->world_size(), side_->rank()),
        bytes_(std::max(chunk_bytes, Staging::least_bytes(side_->world_size()))),
        in_(device),
        out_(device),
        last_(device) {
    for (int i = 0; i < kBuffers; ++i) {
      buffers_.push_back({pinned(side_->allocate(bytes_), device), Event(device), Event(device)});
    }
  }
  ~StagedTransport() override;

  void run(const Call& call) override;
  void leave() override { queue_.give_up(); }
  // All of this is heard and told by `side`, which is of the same family.
  void abort(const Cause&) override {}
  const Cause* failure() override { return nullptr; }
  void wait_elsewhere(bool) override {}
  std::string_view way(const Call& call) override {
    return queue_.way(call.longest, call.record.dtype, call.record.algorithm);
  }

 private:
  static constexpr int kBuffers = 2;
  struct Staged {
    Buffer memory;
    Event full, free;  // copied in, copied out
  };

  void move(const Call& call);
  std::int64_t longest_of_all(const Call& call);
  void copy_in(const Call& call, Slice chunk, Staged& buffer);
  void copy_out(const Call& call, Slice chunk, Staged& buffer);

  std::unique_ptr<Communicator> side_;
  std::span<CallEvents> events_;
  QueuedCommunicator& queue_;
  Staging staging_;
  std::size_t bytes_;
  std::vector<Staged> buffers_;
  Stream in_, out_;
  Event last_;  // the end of the call before: this one may read what that one wrote
};

StagedTransport::~StagedTransport() {
  try {
    in_.synchronize();
    out_.synchronize();
  } catch (const Error&) {  // the device has failed: nothing moves there any more
  }
}

void StagedTransport::run(const Call& call) {
  try {
    in_.wait(events_[call.slot].begin);
    out_.wait(events_[call.slot].begin);
    in_.wait(last_);
    move(call);
    last_.record(out_);
    events_[call.slot].end.record(out_);
  } catch (...) {
    // No late copy lands in memory that its owner takes back.
    in_.synchronize();
    out_.synchronize();
    throw;
  }
}

// Chunk i + 1 is copied in while chunk i is with the hosts and chunk i - 1 is copied out. A chunk
// passes as a call of its own; where there are more, ranks first compare the whole.
void StagedTransport::move(const Call& call) {
  Stream host;
  if (call.record.kind == CallKind::barrier) {
    events_[call.slot].begin.synchronize();
    return side_->wait(host, queue_.pass(call));
  }
  const auto step = staging_.chunk_elements(call, bytes_);
  const auto longest = static_cast<std::size_t>(longest_of_all(call));
  if (longest > step) side_->wait(host, queue_.meet(call));
  const auto chunk = [&](std::size_t begin) {
    return Slice{begin, std::min(longest, begin + step)};
  };
  std::size_t turn = 0;
  copy_in(call, chunk(0), buffers_[0]);
  for (std::size_t begin = 0; begin == 0 || begin < longest; begin += step) {
    Staged& buffer = buffers_[turn];
    turn = (turn + 1) % kBuffers;
    if (begin + step < longest) copy_in(call, chunk(begin + step), buffers_[turn]);
    buffer.full.synchronize();
    side_->wait(host, queue_.pass(staging_.call_on(call, chunk(begin), buffer.memory.data())));
    copy_out(call, chunk(begin), buffer);
  }
}

// How many chunks there are must be the same everywhere; only in a ragged all_to_all do ranks not
// know: 1 more step, after what two ranks say of each other has been compared.
std::int64_t StagedTransport::longest_of_all(const Call& call) {
  std::int64_t longest = call.longest;
  if (call.record.kind != CallKind::all_to_all || call.bounds == nullptr) return longest;
  Stream host;
  side_->wait(host, queue_.meet(call));
  const Tensor x{&longest, {1}, DType::i64};
  side_->wait(host, side_->all_reduce(host, call.record.name.data(), x, x, ReduceOp::max));
  return longest;
}

void StagedTransport::copy_in(const Call& call, Slice chunk, Staged& buffer) {
  in_.wait(buffer.free);
  staging_.copy_in(
      call, chunk, buffer.memory.data(),
      [&](std::byte* to, const std::byte* from, std::size_t bytes) { copy(in_, to, from, bytes); });
  buffer.full.record(in_);
}

void StagedTransport::copy_out(const Call& call, Slice chunk, Staged& buffer) {
  staging_.copy_out(call, chunk, buffer.memory.data(),
                    [&](std::byte* to, const std::byte* from, std::size_t bytes) {
                      copy(out_, to, from, bytes);
                    });
  buffer.free.record(out_);
}

class StagedCommunicator final : public DeviceCommunicator {
 public:
  StagedCommunicator(std::unique_ptr<Communicator> side, Device device,
                     const StagedOptions& options)
      : DeviceCommunicator(*side, device, "staged"), options_(options) {
    start(
        std::make_unique<StagedTransport>(std::move(side), events(), device, options.chunk_bytes));
  }

 protected:
  std::unique_ptr<Communicator> make_over(std::unique_ptr<Communicator> side) override {
    return std::make_unique<StagedCommunicator>(std::move(side), place().device, options_);
  }

 private:
  StagedOptions options_;
};

}  // namespace

std::unique_ptr<Communicator> make_staged_communicator(Communicator& host, Device device,
                                                       const StagedOptions& options) {
  std::optional<Error> mine;
  try {
    require_device(device);
  } catch (const Error& error) {
    mine = error;
  }
  agree_on_error(host, mine ? &*mine : nullptr);
  return std::make_unique<StagedCommunicator>(host.split(0, host.rank()), device, options);
}

}  // namespace peal
