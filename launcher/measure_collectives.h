// Times a collective at one size and checks every element of its result.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "comm/mpi_peer.h"
#include "launcher/exact_values.h"

namespace peal {

enum class Collective {
  all_reduce,
  ordered_tree,
  reduce,
  reduce_scatter,
  all_gather,
  gather,
  scatter,
  all_to_all,
  broadcast,
  ping_pong  // ranks 2k and 2k+1 send to each other by turns; a call is one way
};
// What takes turns with a collective.
enum class Peer { none, mpi, ring };  // ring: all_reduce around a ring, to measure the tree

struct CollectiveCase {
  Collective op = Collective::all_reduce;
  DType dtype = DType::f32;
  Algorithm algorithm = Algorithm::automatic;
  std::int64_t warmup = 5;      // calls before the measurement, at least 1
  std::int64_t iterations = 0;  // calls measured; 0: as many as fit `seconds`, 5 to 5000
  double seconds = 0.4;
  bool private_memory = false;  // instead of Communicator::allocate
  bool fresh = false;           // inputs are written before every call, which is not measured
  Peer peer = Peer::none;

  // As nccl-tests counts: `count` elements in a block; the larger of a rank's two arrays has one
  // block, or one for each rank.
  int blocks(int ranks) const;
  std::size_t bytes(std::int64_t count, int ranks) const;  // of the larger array
  // busbw / algbw: the part of those bytes that passes through every rank's link in the algorithm
  // that moves fewest (nccl-tests, doc/PERFORMANCE.md).
  double bus_factor(int ranks) const;
  bool has_out_of_place() const { return op != Collective::broadcast; }
  bool has_in_place() const { return op != Collective::all_to_all && op != Collective::ping_pong; }
  bool reduces() const;
};

struct CollectiveTimes {
  std::int64_t iterations = 0;
  double mean = 0, median = 0, p99 = 0;  // seconds; a call takes as long as on its slowest rank
  double peer_median = 0;
  std::int64_t wrong = 0;  // elements, on all ranks together

  double ratio() const { return peer_median / median; }  // above 1: faster than the peer
};

class CollectiveBench {
 public:
  // Collective. `most`: the largest count that will be measured.
  CollectiveBench(const CollectiveCase& what, std::int64_t most, Communicator& comm);

  // Collective; all ranks get the same answer. Every call starts behind a barrier; ours and the
  // peer's take turns. The check is a call of its own, on fresh input.
  CollectiveTimes measure(std::int64_t count, bool in_place);

 private:
  struct Memory {
    Buffer x, y;
  };
  // One array twice, or one a part of the other, in place.
  struct Operands {
    Tensor x, y;
  };

  Operands operands(const Memory& memory, std::int64_t count, bool in_place) const;
  void call(const Operands& at);
  void call_peer(const Operands& at);
  void call_mpi(const Operands& at);
  int partner() const;  // ping_pong; -1: none
  double timed(const std::function<void()>& work);
  std::int64_t iterations(const Operands& ours, const Operands& theirs);
  void agree_on_slowest(std::vector<double>& seconds);
  void fill(const Operands& at) const;
  std::int64_t wrong(const Operands& at);
  std::int64_t wrong_here(const Operands& at) const;

  CollectiveCase what_;
  Communicator& comm_;
  int ranks_, rank_;
  ExactValues mine_;
  Stream stream_;
  Memory memory_, peer_memory_;
  std::unique_ptr<MpiPeer> mpi_;
};

}  // namespace peal
