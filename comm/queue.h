// The ordered, asynchronous queue of calls that every backend's Communicator is.
//
// A progress thread runs the calls while the caller computes; a caller that waits runs them itself
// when nobody has begun, which saves a thread switch. The progress thread leaves small calls to the
// caller's wait() for a while, as waking it takes longer than they do, and all calls where ranks
// have no core to spare: running them at once would only take the core from the computation.
#pragma once

#include <array>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/arguments.h"
#include "comm/family.h"
#include "comm/flight.h"
#include "comm/group.h"
#include "comm/transport.h"
#include "core/base/error.h"

namespace peal {

// Cores that the ranks of this host may use, together and each.
struct Cores {
  int of_host = 1, of_rank = 1;
};
Cores cores_of_this_process();

class QueuedCommunicator : public Communicator {
 public:
  struct Place {
    int rank = 0, local_rank = 0, local_size = 1;
    std::string backend;
    std::vector<std::string> names;  // of every rank
    std::vector<int> numbers;        // of every rank where the job began; empty: as here
    Cores cores;
    double deadline = 300;
    std::function<void(const std::string&)> warn = warn_on_stderr;
    bool progress_thread = true;                        // false: wait() and done() run the calls
    std::shared_ptr<std::atomic<std::int64_t>> groups;  // made so far by this rank; null: none yet
    std::shared_ptr<Family> family;                     // null: this is the first of one
    Device device = kCpu;      // of the memory that calls are given, and of their streams
    bool own_streams = false;  // calls work on streams of their own (staged, nccl)
  };
  explicit QueuedCommunicator(Place place);
  ~QueuedCommunicator() override;

  // Once, before the first call: the transport looks at watch() and so is made after this.
  void start(std::unique_ptr<Transport> transport);
  const Watch& watch() const { return watch_; }
  const Place& place() const { return place_; }
  // By Call::slot, with streams of its own.
  std::span<CallEvents> events() { return events_; }

  // For a communicator that is made over this one, which is then its own (queue_streams.cpp):
  // Makes a call that it has checked and recorded.
  Request pass(const Call& call);
  // Ranks compare such a call and meet, as they do in it, but its data go another way.
  Request meet(const Call& call);
  // Whoever waits in a call gives up soon, and tells nobody.
  void give_up() { watch_.closing = true; }
  // Messages of a rank that is late add this to the deadline.
  void waited_before(double seconds) { watch_.waited_before = seconds; }

  int rank() const override { return place_.rank; }
  int world_size() const override { return static_cast<int>(watch_.names.size()); }
  int local_rank() const override { return place_.local_rank; }
  int local_size() const override { return place_.local_size; }
  std::string_view backend() const override { return place_.backend; }
  std::string rank_name(int rank) const override;
  Buffer allocate(std::size_t bytes) override;

  Request all_reduce(Stream& s, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                     Algorithm algorithm) override;
  Request all_reduce_tree(Stream& s, std::string_view name, int virtual_ranks,
                          std::span<const Tensor> partials, Tensor y) override;
  Request all_reduce_group(Stream& s, std::string_view name, std::span<const Tensor> xs,
                           std::span<const Tensor> ys, ReduceOp op) override;
  Request reduce(Stream& s, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                 int root) override;
  Request reduce_scatter(Stream& s, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                         Counts counts = {}) override;
  Request reduce_scatter_tree(Stream& s, std::string_view name, int virtual_ranks,
                              std::span<const Tensor> partials, Tensor y, Counts counts) override;
  Request all_gather(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                     Counts counts = {}) override;
  Request gather(Stream& s, std::string_view name, const Tensor& x, Tensor y, int root,
                 Counts counts = {}) override;
  Request scatter(Stream& s, std::string_view name, const Tensor& x, Tensor y, int root,
                  Counts counts = {}) override;
  Request all_to_all(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                     Counts send_counts = {}, Counts receive_counts = {}) override;
  Request broadcast(Stream& s, std::string_view name, Tensor x, int root) override;
  Request send(Stream& s, std::string_view name, const Tensor& x, int to) override;
  Request recv(Stream& s, std::string_view name, Tensor y, int from) override;
  Request barrier(Stream& s, std::string_view name) override;
  void wait(Stream& s, Request request) override;
  bool done(Request request) override;
  void abort(const std::string& cause, int exit_code) override;
  std::string_view way(std::int64_t count, DType dtype, Algorithm algorithm) override;
  void set_deadline(double seconds) override;
  void set_step(std::int64_t step) override;
  void set_flight_directory(const std::string& directory) override;
  std::size_t copy_flight(std::uint64_t& seen, std::span<FlightCall> into) override;
  std::unique_ptr<Communicator> split(int colour, int key) override;
  std::unique_ptr<Communicator> make_group(std::span<const int> ranks) override;

 protected:
  // Null on a rank that is in no group; such a rank takes part all the same. Collective.
  virtual std::unique_ptr<Communicator> make_group_communicator(const Group& group) = 0;
  // Where this rank stands in its group; `hosts`: a number for the host of every rank here.
  Place place_in(const Group& group, const std::vector<int>& hosts) const;
  void drain();  // waits until all calls have ended; throws when one fails
  // The communicator of host memory over which ranks agree who is in a group.
  virtual Communicator& host_side() { return *this; }

 private:
  struct alignas(64) Slot {
    Call call;
    std::uint64_t since = 0;  // ticks of flight_'s clock
  };
  static constexpr std::size_t kSlots = 64;

  void add_input(const CallPlace& place, Call& call, const Tensor& x) const {
    if (!(x.device == place_.device)) refuse(place, x.device);
    call.inputs[static_cast<std::size_t>(call.input_count++)] = x.as<const std::byte>();
    call.input_elements = x.numel();
  }
  void add_output(const CallPlace& place, Call& call, const Tensor& y) const {
    if (!(y.device == place_.device)) refuse(place, y.device);
    call.outputs[static_cast<std::size_t>(call.output_count++)] = y.as<std::byte>();
  }
  [[noreturn]] void refuse(const CallPlace& place, const Device& device) const;
  Request enqueue(Stream& s, Call& call, std::string_view name);
  Request post(Stream& s, Call& call);
  // Calls whose slots may be used again.
  std::uint64_t over() const {
    return only_starts_ ? ended_ : completed_.load(std::memory_order_relaxed);
  }
  std::size_t bounds_per_slot() const;
  void add_bounds(Call& call, Counts counts);
  void check_blocks(const CallPlace& place, Call& call, const Tensor& block, const Tensor* blocks,
                    Counts counts);
  std::unique_ptr<Communicator> split_as(std::string_view name, int colour, int key);
  const TreePlan& tree_for(int virtual_ranks);
  const TreePlan& tree_of(const CallPlace& place, int virtual_ranks, std::size_t partials,
                          DType dtype);
  void run_or_wait(std::unique_lock<std::mutex>& lock);
  void run_next(std::unique_lock<std::mutex>& lock, bool spin);
  template <typename Work>
  std::optional<Error> caught(const Work& work) const;
  void fail(std::unique_lock<std::mutex>& lock, Error error);
  Error tell(const Error& error);
  void mark_begin(Stream& s, Call& call);
  void follow(Stream& s, Request request);
  bool ended_on_device(Request request);
  void look_at_started(std::unique_lock<std::mutex>& lock);
  void wait_for_work(std::unique_lock<std::mutex>& lock);
  void progress();
  void throw_if_broken() const;

  Place place_;
  Watch watch_;
  std::unique_ptr<Transport> transport_;
  std::map<int, TreePlan> trees_;  // by virtual ranks; only ever grows
  bool caller_spins_ = false, eager_ = false;
  std::int64_t worth_a_thread_ = 0;  // bytes

  std::mutex mutex_;
  FlightRecorder flight_{watch_, mutex_};
  std::condition_variable work_;
  std::condition_variable finished_;
  std::array<Slot, kSlots> slots_;
  std::array<CallRecord, kCallKinds> recent_;  // the last call of each kind
  std::vector<std::int64_t> bounds_;           // of the call that is being made
  std::vector<std::int64_t> slot_bounds_;      // of the calls in the slots
  std::uint64_t posted_ = 0;                   // tickets given out
  std::uint64_t collectives_ = 0;              // of them, calls that every rank makes
  std::vector<std::uint64_t> pair_calls_;      // of them, those with each rank
  std::atomic<std::uint64_t> completed_{0};    // calls that have ended (or started), in order
  bool running_ = false, napping_ = false;
  bool waiting_ = false;      // the caller sleeps on finished_
  bool hurried_ = false;      // somebody polls: do not leave calls to wait()
  std::uint64_t urgent_ = 0;  // up to this ticket calls are not left to wait()
  bool only_starts_ = false;  // of the transport
  std::optional<Error> broken_;
  bool stopping_ = false;
  std::uint64_t ended_ = 0;         // if it only starts them: calls that have ended, in order
  std::vector<CallEvents> events_;  // by slot, with streams of our own
  std::thread thread_;
};

// Every communicator of Peal is one; throws Error(internal) for one of somebody else's.
QueuedCommunicator& queue_of(Communicator& comm);

// What `work` throws, as an Error.
template <typename Work>
std::optional<Error> QueuedCommunicator::caught(const Work& work) const {
  try {
    work();
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  } catch (const std::exception& error) {
    return Error(ErrorKind::internal, watch_.place(), error.what());
  }
}

}  // namespace peal
