// Collectives among the ranks of a job, one contract over every backend.
//
// Every call is named, asynchronous and ordered: it begins after the work enqueued on `s` before
// it, and calls on one Communicator run in the order they were made, which must be the same on
// every rank (for send and recv: on the two ranks that make them). wait() makes the stream wait (on
// the CPU: the calling thread). Memory that a call reads or writes must stay as it is until its
// Request was waited for.
//
// Every wait has a deadline (set_deadline). When it passes, or a peer fails, or ranks disagree, the
// call throws Error(peer) (Error(numeric) for disagreement) that names what was waited for and the
// late rank: `rank 3 step 1203: waited 60 s in all_reduce "bucket 7"; rank 5 last finished
// "bucket 6"`. The Communicator is broken from then on and every later call throws the same. So are
// all that were split from one another with it: a failure of any reaches every rank that waits in
// any, and is what each throws, so that nobody waits for a deadline with a worse message. Time in
// which a rank was itself stopped is not counted as waiting.
//
// One thread makes the calls of a Communicator. Integer sums wrap around; the mean of integers
// rounds towards zero; a NaN wins min and max.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/device/buffer.h"
#include "core/device/stream.h"
#include "core/device/tensor.h"

namespace peal {

enum class ReduceOp : std::uint8_t { sum, mean, min, max, product };
enum class Algorithm : std::uint8_t {
  automatic,
  ring,          // reduce-scatter and all-gather around a ring
  ordered_tree,  // the fixed binary tree of tree.h over ranks: bits do not depend on the transport
};

using Counts = std::span<const std::int64_t>;  // elements, by rank

// A handle of a started call; cheap to copy.
class Request {
 public:
  Request() = default;
  explicit Request(std::uint64_t ticket) : ticket_(ticket) {}
  std::uint64_t ticket() const { return ticket_; }

 private:
  std::uint64_t ticket_ = 0;  // 0: nothing to wait for
};

struct FlightCall;

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int rank() const = 0;
  virtual int world_size() const = 0;
  virtual int local_rank() const = 0;  // within this host
  virtual int local_size() const = 0;
  virtual std::string_view backend() const = 0;       // "local", "host", "single"
  virtual std::string rank_name(int rank) const = 0;  // "rank 3 (node7)"; see split

  // Memory that ranks of this host can read and write directly where the backend has such;
  // collectives on it copy nothing in or out. Collective: all ranks call it with the same size,
  // and release it alike.
  virtual Buffer allocate(std::size_t bytes) = 0;

  // Elements are counted in every call; shapes do not matter. Reductions take every dtype: f16 and
  // bf16 are reduced in f32 and rounded once, to nearest even; sum and max of bool are "or",
  // product and min are "and", and it has no mean. x and y may overlap only as a call says ("in
  // place").

  // y may be x.
  virtual Request all_reduce(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                             ReduceOp op, Algorithm algorithm = Algorithm::automatic) = 0;
  // all_reduce of every xs[i] into ys[i] as one call: one meeting of the ranks for up to 64
  // tensors, one more for each further 64. One dtype for all; ys[i] may be xs[i].
  virtual Request all_reduce_group(Stream& s, std::string_view name, std::span<const Tensor> xs,
                                   std::span<const Tensor> ys, ReduceOp op) = 0;
  // Sums the leaves of the fixed tree over `virtual_ranks` (tree.h). This rank holds
  // partials[i], the sum of node maximal_nodes(virtual_ranks, block)[i] of its block (block_of);
  // y receives the total on every rank and may be partials[0]. Same bits for every number of
  // ranks. f32, f16, bf16; of the half types every node's sum is made in f32 and rounded, so that
  // what travels is what any rank would have.
  virtual Request all_reduce_tree(Stream& s, std::string_view name, int virtual_ranks,
                                  std::span<const Tensor> partials, Tensor y) = 0;
  // y is used on the root only; it may be x.
  virtual Request reduce(Stream& s, std::string_view name, const Tensor& x, Tensor y, ReduceOp op,
                         int root) = 0;

  // In the calls below an array "of blocks" has one block for every rank, in rank order. Without
  // counts all blocks are of one size; with counts (the same on every rank), block r has counts[r]
  // elements.

  // x: blocks; y receives the reduced block of this rank, and may be that block of x.
  virtual Request reduce_scatter(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                 ReduceOp op, Counts counts = {}) = 0;
  // The sums of all_reduce_tree, of which every rank gets its block: partials as there, each of
  // blocks; y may be the block of partials[0]. With counts always.
  virtual Request reduce_scatter_tree(Stream& s, std::string_view name, int virtual_ranks,
                                      std::span<const Tensor> partials, Tensor y,
                                      Counts counts) = 0;
  // y: blocks; x becomes the block of this rank on every rank, and may be that block of y.
  virtual Request all_gather(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                             Counts counts = {}) = 0;
  // all_gather to the root alone; y is used only there.
  virtual Request gather(Stream& s, std::string_view name, const Tensor& x, Tensor y, int root,
                         Counts counts = {}) = 0;
  // x: blocks, used on the root only; y receives this rank's, and on the root may be that block of
  // x.
  virtual Request scatter(Stream& s, std::string_view name, const Tensor& x, Tensor y, int root,
                          Counts counts = {}) = 0;
  // x and y: blocks, apart from each other. Block r of x becomes block rank() of y on rank r. With
  // counts, this rank sends send_counts[r] elements to rank r and receives receive_counts[r] from
  // it; what two ranks say of each other must match.
  virtual Request all_to_all(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                             Counts send_counts = {}, Counts receive_counts = {}) = 0;
  virtual Request broadcast(Stream& s, std::string_view name, Tensor x, int root) = 0;
  // Between two ranks: the others take no part. The k-th call that a rank makes with a peer meets
  // the k-th that the peer makes with it: one sends and the other receives, with one name, dtype
  // and count, or both fail and say what they called. A send ends when its data was taken, so ranks
  // that all send first wait for each other until the deadline; all_to_all serves those.
  virtual Request send(Stream& s, std::string_view name, const Tensor& x, int to) = 0;
  virtual Request recv(Stream& s, std::string_view name, Tensor y, int from) = 0;
  virtual Request barrier(Stream& s, std::string_view name) = 0;

  virtual void wait(Stream& s, Request request) = 0;
  virtual bool done(Request request) = 0;  // blocks only where mpi_comm.h says so

  // Process groups: the ranks that give the same colour form a new communicator, in the order of
  // (key, rank). Null where `colour` is kNoGroup. make_group: the ranks listed, in that order; the
  // same list on every rank; null on the ranks that it leaves out.
  // Collective over this communicator, in order with its calls; blocks until all have come. A group
  // has its own names, sequence of calls and deadline, works at the same time as others, and may
  // outlive this; its failures are those of all (above). Its messages and rank_name() speak of the
  // ranks of the communicator that was split first. Two threads must not split at once.
  static constexpr int kNoGroup = -1;
  virtual std::unique_ptr<Communicator> split(int colour, int key) = 0;
  virtual std::unique_ptr<Communicator> make_group(std::span<const int> ranks) = 0;

  // Tells the peers why this rank leaves, here and in all communicators that were split from one
  // another with this, so that each prints the first cause and none waits for a deadline. Groups
  // may be destroyed before, as an exception does: peers give a rank that leaves a moment to say
  // why. Safe from any thread; the first call wins. What the peers throw is Error(input) for
  // exit code 2, Error(numeric) for 4 and Error(peer) for all others, so that every rank can end
  // with the code of the first.
  virtual void abort(const std::string& cause, int exit_code) = 0;

  // How an all_reduce of one tensor of `count` elements is carried out here, in a word of the
  // backend's: ways of "local" and "host" are those of cost_model.h. While no call is under way.
  virtual std::string_view way(std::int64_t count, DType dtype, Algorithm algorithm) = 0;

  virtual void set_deadline(double seconds) = 0;
  virtual void set_step(std::int64_t step) = 0;  // for messages

  // Where this rank writes its flight record (flight.h), `flight-rank-<rank>.jsonl`, when it fails
  // by more than wrong input and on SIGUSR2; what an earlier run left there is removed. Empty, as
  // at the start: nowhere. Each communicator needs a directory of its own.
  virtual void set_flight_directory(const std::string& directory) = 0;
  // Copies what the flight record has of the calls after the first `seen` that this rank made, up
  // to the first that has not ended, oldest first, as many as fit `into`; returns how many. `seen`
  // becomes the last one's number: it grows by more where the record no longer has some. Waits for
  // no call.
  virtual std::size_t copy_flight(std::uint64_t& seen, std::span<FlightCall> into) = 0;
};

// Ranks as threads of this process: run(rank's communicator) on `ranks` threads; rethrows the
// first error after all have ended.
void run_local_ranks(int ranks, const std::function<void(Communicator&)>& run);

struct HostOptions {
  bool shared_memory = true;  // false: MPI even between ranks of one host (tests)
  double deadline_seconds = 300;
  int ranks_per_host = 0;  // > 0: as if every so many ranks had a host of their own (tests)
  // False: as where the kernel lets no process read the memory of another (tests).
  bool fetch = true;
  // What `peal bench collectives --tune` stored, from which Algorithm::automatic chooses; "": none,
  // but costs that are built in. Rank 0's holds for all; Error(input) on every rank where it cannot
  // be read. Nothing given: the environment variable PEAL_TUNE in the same way, else
  // $XDG_CACHE_HOME/peal/tuning or ~/.cache/peal/tuning: built-in costs where that is not there
  // and, with a warning, where it cannot be read or is of another CPU.
  std::optional<std::string> tune_file = {};
  std::string way =
      {};  // the way of every all-reduce that can go it (measurements); see cost_model.h
  // Told what costs speed here, in words, while a communicator is made; empty: stderr.
  std::function<void(const std::string&)> warn = {};
};

// MPI for the life of the object: initialises on construction (thread level at least SERIALIZED)
// and finalises on destruction. After an abort it must end with exit_process instead.
class MpiSession {
 public:
  MpiSession();
  ~MpiSession();
  // True under mpirun, srun or another PMI launcher (environment variables, no MPI call).
  static bool launched();
  // Ends this process with `code` without waiting for peers that may be gone; where it is not 0,
  // after a moment in which peers can say why they end: launchers end all when the first has
  // failed.
  [[noreturn]] static void exit_process(int code);
};

// Collective over MPI_COMM_WORLD, for a program that leaves MPI to Peal; mpi_comm.h is for others.
// Error(numeric), on every rank, names one whose Peal or MPI library is of another version.
// Its flight directory is the environment variable PEAL_FLIGHT_DIRECTORY, if set.
std::unique_ptr<Communicator> make_host_communicator(const HostOptions& options);
// A world of one without MPI.
std::unique_ptr<Communicator> make_single_communicator();

// Start-up agreement: every rank brings the same facts (name -> value) or Error(numeric) names the
// odd rank out (the minority, or the higher ranks on a tie), the fact and both values, on every
// rank. Fact names themselves may differ too.
struct Fact {
  std::string name;
  std::string value;
};
void agree(Communicator& comm, const std::vector<Fact>& facts);

// Every rank calls it with its own error, or none; throws on all ranks when any had one: the first
// rank's message, prefixed with that rank's name on the others. So that wrong input found by one
// rank ends all of them alike.
void agree_on_error(Communicator& comm, const class Error* mine);

}  // namespace peal
