#include "comm/device_transport.h"

#include <exception>

#include "comm/device_collectives.h"
#include "comm/device_communicator.h"

namespace peal {
namespace {

// Calls that are compared whatever the options say. A number, so that ranks agree which they are.
constexpr std::uint64_t kCompared = 256;
// How long a rank whose call is late waits for those that are in the same call to say so.
constexpr double kAskSeconds = 5;
constexpr double kForEver = 1e9;
// What a rank that is late after them is said to have finished.
constexpr std::string_view kLastCompared = "the last call that was compared";

// Notices when a rank is gone: each rank waits in a recv for a message that the next rank never
// sends, and such a wait fails, for the whole family, when that rank has. Two ranks cannot both
// receive from each other: the second waits in a barrier to which the first does not come.
class Peers {
 public:
  explicit Peers(std::unique_ptr<Communicator> group)
      : group_(std::move(group)), queue_(queue_of(*group_)) {
    const int n = group_->world_size(), me = group_->rank();
    if (n == 1) return;
    group_->set_deadline(kForEver);
    Stream s;
    if (n == 2 && me == 1) {
      group_->barrier(s, "peers");
    } else {
      group_->recv(s, "peers", {&nothing_, {1}, DType::u8}, (me + 1) % n);
    }
  }

  void leave() { queue_.give_up(); }

 private:
  std::uint8_t nothing_ = 0;
  std::unique_ptr<Communicator> group_;
  QueuedCommunicator& queue_;
};

class DeviceTransport final : public Transport {
 public:
  // Collective over `side`.
  DeviceTransport(std::unique_ptr<Communicator> side, const Watch& watch,
                  std::span<CallEvents> events, bool compare, const MakeEngine& make_engine)
      : watch_(watch),
        events_(events),
        compare_(compare),
        side_(std::move(side)),
        queue_(queue_of(*side_)),
        peers_(side_->split(0, side_->rank())),
        engine_(make(make_engine)),
        collectives_(*engine_, watch.ranks(), watch.rank),
        pair_calls_(static_cast<std::size_t>(watch.ranks())) {}

  void run(const Call& call) override;
  bool only_starts() const override { return true; }
  bool ended(const Call& call) const override {
    try {
      return !failed_ && engine_->ended(events_[call.slot].end);
    } catch (const Error&) {  // look_at() says it to all ranks
      return false;
    }
  }
  void look_at(const Call& call) override;
  // All of this is heard and told by `side`, which is of the same family.
  void abort(const Cause&) override {}
  const Cause* failure() override { return nullptr; }
  void wait_elsewhere(bool) override {}
  std::string_view way(const Call& call) override {
    return collectives_.is_native(call) ? "engine" : "exchange";
  }
  void leave() override {
    peers_.leave();
    queue_.give_up();
  }
  // When all calls have ended on this rank.
  void close();

 private:
  using Clock = std::chrono::steady_clock;

  std::unique_ptr<DeviceEngine> make(const MakeEngine& make_engine);
  void look() const;
  void wait_for_peers(const char* asked, Clock::time_point since);
  void compare(const Call& call);
  [[noreturn]] void fail(const Error& error);
  [[noreturn]] void fail_late(const Call& call);

  const Watch& watch_;
  std::span<CallEvents> events_;
  bool compare_;
  std::unique_ptr<Communicator> side_;
  QueuedCommunicator& queue_;
  Peers peers_;
  std::unique_ptr<DeviceEngine> engine_;
  DeviceCollectives collectives_;
  std::uint64_t calls_ = 0;                // that all ranks make
  std::vector<std::uint64_t> pair_calls_;  // by rank
  const Call* running_ = nullptr;          // not yet on the device
  std::uint64_t watched_ = 0;              // the oldest call that has not ended
  Clock::time_point since_;                // when it came to the device
  std::atomic<bool> failed_{false};
};

std::unique_ptr<DeviceEngine> DeviceTransport::make(const MakeEngine& make_engine) {
  try {
    return make_engine(*side_, [this](const char* asked, Clock::time_point since) {
      wait_for_peers(asked, since);
    });
  } catch (const Error& error) {
    const Cause cause =
        make_cause(watch_.rank, exit_code(error.kind()), error.where(), error.message());
    throw_cause(queue_.place().family->fail(cause, this));
  }
}

// Throws the first cause when a rank has failed.
void DeviceTransport::look() const {
  if (const Cause* cause = watch_.family_failure(*this)) throw_cause(*cause);
}

// Ranks that talk for the first time in some way wait for each other before the call is on the
// device: then as there, those that do not come are named.
void DeviceTransport::wait_for_peers(const char* asked, Clock::time_point since) {
  look();
  const double deadline = watch_.deadline.load(std::memory_order_relaxed);
  if (std::chrono::duration<double>(Clock::now() - since).count() <= deadline) return;
  if (running_ != nullptr) fail_late(*running_);
  throw Error(ErrorKind::peer, watch_.place(), cat("waited ", deadline, " s in ", asked));
}

void DeviceTransport::run(const Call& call) {
  running_ = &call;
  try {
    look();
    if (watch_.ranks() > 1) compare(call);
    engine_->stream().wait(events_[call.slot].begin);
    collectives_.run(call);
    events_[call.slot].end.record(engine_->stream());
    running_ = nullptr;
  } catch (const Error& error) {
    fail(error);
  }
}

// A ragged all_to_all in which two ranks disagree would write past the end of an array.
void DeviceTransport::compare(const Call& call) {
  std::uint64_t& made =
      call.is_pair() ? pair_calls_[static_cast<std::size_t>(call.record.parameter)] : calls_;
  const bool ragged = call.record.kind == CallKind::all_to_all && call.bounds != nullptr;
  if (++made > kCompared && !compare_ && !ragged) return;
  Stream host;
  side_->wait(host, queue_.meet(call));
  if (made == kCompared && !compare_ && !call.is_pair()) {
    side_->wait(host, side_->barrier(host, kLastCompared));
  }
}

void DeviceTransport::look_at(const Call& call) {
  try {
    engine_->ended(events_[call.slot].end);
    engine_->check();
    look();
  } catch (const Error& error) {
    fail(error);
  }
  // The clock starts when it no longer waits for its own rank's computation.
  if (watched_ != events_[call.slot].ticket || !events_[call.slot].begin.done())
    since_ = Clock::now();
  watched_ = events_[call.slot].ticket;
  const std::chrono::duration<double> waited = Clock::now() - since_;
  if (waited.count() > watch_.deadline.load(std::memory_order_relaxed)) fail_late(call);
}

// Ranks that are in the call come to a meeting of the hosts, which names those that do not come. 1
// step, kAskSeconds at most.
void DeviceTransport::fail_late(const Call& call) {
  try {
    Stream host;
    queue_.waited_before(watch_.deadline.load(std::memory_order_relaxed));
    side_->set_deadline(kAskSeconds);
    side_->wait(host, queue_.meet(call));
  } catch (const Error& error) {
    fail(error);
  }
  fail(Error(
      ErrorKind::peer, watch_.place(),
      late_message(watch_, call.record, "all ranks are in it, and the device does not end it")));
}

// What is under way is ended here and, as they hear of it from the queue, on all ranks.
void DeviceTransport::fail(const Error& error) {
  // Before what was aborted looks as if it had ended.
  if (!failed_.exchange(true)) engine_->abort();
  throw error;
}

// Nobody is waited for any more before somebody leaves.
void DeviceTransport::close() {
  peers_.leave();
  Stream host;
  side_->wait(host, side_->barrier(host, "leave"));
  engine_->close();
}

class EngineCommunicator final : public DeviceCommunicator {
 public:
  EngineCommunicator(std::unique_ptr<Communicator> side, const Device& device,
                     const std::string& backend, const NcclOptions& options,
                     const MakeEngine& make_engine)
      : DeviceCommunicator(*side, device, backend), options_(options), make_engine_(make_engine) {
    auto transport = std::make_unique<DeviceTransport>(std::move(side), watch(), events(),
                                                       options.compare_calls, make_engine);
    transport_ = transport.get();
    start(std::move(transport));
  }
  ~EngineCommunicator() override {
    if (std::uncaught_exceptions() > 0) return;  // to leave in the middle tells the peers
    try {
      drain();
      transport_->close();
    } catch (const Error&) {  // every caller has been told, or will be by its peers
    }
  }

 protected:
  std::unique_ptr<Communicator> make_over(std::unique_ptr<Communicator> side) override {
    return std::make_unique<EngineCommunicator>(std::move(side), place().device, place().backend,
                                                options_, make_engine_);
  }

 private:
  NcclOptions options_;
  MakeEngine make_engine_;
  DeviceTransport* transport_ = nullptr;
};

}  // namespace

std::unique_ptr<Communicator> make_engine_communicator(Communicator& host, const Device& device,
                                                       const std::string& backend,
                                                       const NcclOptions& options,
                                                       const MakeEngine& make_engine) {
  return std::make_unique<EngineCommunicator>(host.split(0, host.rank()), device, backend, options,
                                              make_engine);
}

}  // namespace peal
