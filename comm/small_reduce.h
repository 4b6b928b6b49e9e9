// Small all-reduces over messages: the inputs of all ranks travel with the messages in which ranks
// compare their calls, and every rank reduces them for itself, all in the same order.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "comm/call.h"
#include "comm/reduce.h"

namespace peal {

// Dissemination (Bruck et al. 1997, section 3): at distance d = 1, 2, 4, ... below n a rank sends
// to rank + d what it holds, and receives from rank - d. ceil(log2 n) steps, (n-1) p N bytes with p
// inputs a rank.
class SmallReduce {
 public:
  // Of the inputs of all ranks. The longest message takes half of it: what MPI sends without asking
  // the receiver first, 64 KiB over TCP.
  static constexpr std::size_t kMostBytes = std::size_t{96} << 10;
  // Of one input, where each rank has up to `inputs`.
  static std::size_t most(int ranks, int inputs) {
    return kMostBytes / static_cast<std::size_t>(ranks) / static_cast<std::size_t>(inputs);
  }

  SmallReduce(int ranks, int rank);

  // An all-reduce of at least one and at most most() bytes.
  void begin(const Call& call);
  std::span<const std::byte> outgoing(int distance) const;
  std::span<std::byte> incoming(int distance);
  void finish(const Call& call);

 private:
  std::size_t blocks(int distance) const;

  int ranks_, rank_;
  ReducePlan chain_, pairs_;
  Reducer reducer_;
  std::size_t block_ = 0;          // bytes of one rank's inputs
  std::vector<std::byte> inputs_;  // block k: of rank - k
  std::vector<const std::byte*> sources_;
};

}  // namespace peal
