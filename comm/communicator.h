// Collectives among the ranks of a job, one contract over every backend.
//
// Every call is named, asynchronous and ordered: it begins after the work enqueued on `s` before
// it, and calls on one Communicator run in the order they were made, which must be the same on
// every rank. wait() makes the stream wait (on the CPU: the calling thread). Memory that a call
// reads or writes must stay as it is until its Request was waited for.
//
// Every wait has a deadline (set_deadline). When it passes, or a peer fails, or ranks disagree, the
// call throws Error(peer) (Error(numeric) for disagreement) that names what was waited for and the
// late rank: `rank 3 step 1203: waited 60 s in all_reduce "bucket 7"; rank 5 last finished
// "bucket 6"`. The Communicator is broken from then on and every later call throws the same.
//
// One thread makes the calls of a Communicator. Integer sums wrap around; the mean of integers
// rounds towards zero; a NaN wins min and max.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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

// A handle of a started call; cheap to copy.
class Request {
 public:
  Request() = default;
  explicit Request(std::uint64_t ticket) : ticket_(ticket) {}
  std::uint64_t ticket() const { return ticket_; }

 private:
  std::uint64_t ticket_ = 0;  // 0: nothing to wait for
};

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

  // x and y: same shape and dtype; y may be x (in place). f32, f64, i32, i64, u8.
  virtual Request all_reduce(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                             ReduceOp op, Algorithm algorithm = Algorithm::automatic) = 0;
  // Sums the leaves of the fixed tree over `virtual_ranks` (tree.h). This rank holds
  // partials[i], the sum of node maximal_nodes(virtual_ranks, block)[i] of its block (block_of);
  // y receives the total on every rank and may be partials[0]. Same bits for every number of
  // ranks. f32.
  virtual Request all_reduce_tree(Stream& s, std::string_view name, int virtual_ranks,
                                  std::span<const Tensor> partials, Tensor y) = 0;
  // x has world_size * y.numel() elements; y receives the reduced slice of this rank.
  virtual Request reduce_scatter(Stream& s, std::string_view name, const Tensor& x, Tensor y,
                                 ReduceOp op) = 0;
  // y has world_size * x.numel() elements, in rank order.
  virtual Request all_gather(Stream& s, std::string_view name, const Tensor& x, Tensor y) = 0;
  virtual Request broadcast(Stream& s, std::string_view name, Tensor x, int root) = 0;
  virtual Request barrier(Stream& s, std::string_view name) = 0;

  virtual void wait(Stream& s, Request request) = 0;
  virtual bool done(Request request) = 0;  // blocks only where mpi_comm.h says so

  // Process groups: the ranks that give the same colour form a new communicator, in the order of
  // (key, rank). Null where `colour` is kNoGroup. make_group: the ranks listed, in that order; the
  // same list on every rank; null on the ranks that it leaves out.
  // Collective over this communicator, in order with its calls; blocks until all have come. A group
  // has its own names, sequence of calls, deadline and failures, works at the same time as others,
  // and may outlive this. Its messages and rank_name() speak of the ranks of the communicator that
  // was split first. Two threads must not split at once.
  static constexpr int kNoGroup = -1;
  virtual std::unique_ptr<Communicator> split(int colour, int key) = 0;
  virtual std::unique_ptr<Communicator> make_group(std::span<const int> ranks) = 0;

  // Tells the peers why this rank leaves, so that each prints the first cause and none waits for
  // a deadline. Safe from any thread; the first call wins. What the peers throw is Error(input) for
  // exit code 2, Error(numeric) for 4 and Error(peer) for all others, so that every rank can end
  // with the code of the first.
  virtual void abort(const std::string& cause, int exit_code) = 0;

  virtual void set_deadline(double seconds) = 0;
  virtual void set_step(std::int64_t step) = 0;  // for messages
};

// Ranks as threads of this process: run(rank's communicator) on `ranks` threads; rethrows the
// first error after all have ended.
void run_local_ranks(int ranks, const std::function<void(Communicator&)>& run);

struct HostOptions {
  bool shared_memory = true;  // false: MPI even between ranks of one host (tests)
  double deadline_seconds = 300;
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
  // Ends this process with `code` without waiting for peers that may be gone.
  [[noreturn]] static void exit_process(int code);
};

// Collective over MPI_COMM_WORLD. For a program that leaves MPI to Peal; mpi_comm.h is for others.
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
