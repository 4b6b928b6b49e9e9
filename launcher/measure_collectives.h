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

enum class Collective { all_reduce, ordered_tree, reduce_scatter, all_gather, broadcast };

struct CollectiveCase {
  Collective op = Collective::all_reduce;
  DType dtype = DType::f32;
  Algorithm algorithm = Algorithm::automatic;
  std::int64_t warmup = 5;      // calls before the measurement, at least 1
  std::int64_t iterations = 0;  // calls measured; 0: as many as fit a fixed time
  bool private_memory = false;  // instead of Communicator::allocate
  bool fresh = false;           // inputs are written before every call, which is not measured
  bool beside_mpi = false;

  // As nccl-tests counts: `count` elements in a block; the larger of a rank's two arrays has one
  // block, or one for each rank.
  int blocks(int ranks) const;
  std::size_t bytes(std::int64_t count, int ranks) const;  // of the larger array
  // busbw / algbw: the part of those bytes that passes through every rank's link in the algorithm
  // that moves fewest (nccl-tests, doc/PERFORMANCE.md).
  double bus_factor(int ranks) const;
  bool has_out_of_place() const { return op != Collective::broadcast; }
};

struct CollectiveTimes {
  std::int64_t iterations = 0;
  double mean = 0, median = 0, p99 = 0;  // seconds; a call takes as long as on its slowest rank
  double mpi_median = 0;                 // with beside_mpi
  std::int64_t wrong = 0;                // elements, on all ranks together

  double ratio() const { return mpi_median / median; }  // above 1: faster than MPI
};

class CollectiveBench {
 public:
  // Collective. `most`: the largest count that will be measured.
  CollectiveBench(const CollectiveCase& what, std::int64_t most, Communicator& comm);

  // Collective; all ranks get the same answer. Every call starts behind a barrier; with beside_mpi,
  // ours and MPI's take turns. The check is a call of its own, on fresh input.
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
  void call_mpi(const Operands& at);
  double timed(const std::function<void()>& work);
  std::int64_t iterations(const Operands& ours, const Operands& theirs);
  void agree_on_slowest(std::vector<double>& seconds);
  void fill(const Operands& at) const;
  std::int64_t wrong(const Operands& at);

  CollectiveCase what_;
  Communicator& comm_;
  int ranks_, rank_;
  ExactValues mine_;
  Stream stream_;
  Memory memory_, mpi_memory_;
  std::unique_ptr<MpiPeer> mpi_;
};

}  // namespace peal
