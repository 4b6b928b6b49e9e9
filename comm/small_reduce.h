// Small all-reduces over messages: they travel with the messages in which ranks compare their
// calls.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "comm/call.h"
#include "comm/reduce.h"

namespace peal {

// At distance d = 1, 2, 4, ... below n a rank exchanges messages: with the rank whose number
// differs in that bit where n is a power of two, else it sends to rank + d and receives from rank -
// d (dissemination, Bruck et al. 1997, section 3). ceil(log2 n) steps, with p inputs a rank.
//   gather: the inputs of all ranks; every rank reduces them for itself, all in the same order.
//           (n-1) p N bytes.
//   doubling: partial sums, of lower ranks first: along the tree of tree.h over n ranks. Powers of
//             two alone. log2 n N bytes.
class SmallReduce {
 public:
  // Of the inputs of all ranks, and of a doubled one. No message takes more than 48 KiB: what MPI
  // sends without asking the receiver first is 64 KiB over TCP.
  static constexpr std::size_t kMostBytes = std::size_t{96} << 10, kMostDoubled = kMostBytes / 2;
  // Of one input, where each rank has up to `inputs`.
  static std::size_t most(int ranks, int inputs) {
    return kMostBytes / static_cast<std::size_t>(ranks) / static_cast<std::size_t>(inputs);
  }

  SmallReduce(int ranks, int rank);

  int to(int distance) const;
  int from(int distance) const;

  // An all-reduce of at least one byte, and no more than fits.
  void begin(const Call& call, bool doubling);
  std::span<const std::byte> outgoing(int distance) const;
  std::span<std::byte> incoming(int distance);
  void arrived(const Call& call, int distance);  // what incoming() says
  void finish(const Call& call);

 private:
  std::size_t blocks(int distance) const;
  std::size_t place(int rank) const;
  // Of the first block that this rank has before it exchanges at a distance.
  std::size_t first(int distance) const;

  int ranks_, rank_;
  bool pairs_of_ranks_;  // n is a power of two
  bool doubling_ = false;
  ReducePlan chain_, pairs_, two_;
  Reducer reducer_;
  std::size_t block_ = 0;          // bytes of one rank's inputs
  std::vector<std::byte> inputs_;  // gather: blocks by place(); doubling: mine, theirs
  std::vector<const std::byte*> sources_;
};

}  // namespace peal
