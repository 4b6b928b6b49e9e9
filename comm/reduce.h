// Reducing arrays of equal length element by element, in an order fixed beforehand.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "comm/communicator.h"
#include "comm/tree.h"

namespace peal {

// The order of a reduction over `sources` arrays. A step combines two operands into scratch slot
// `slot`; an operand k >= 0 is source k, and ~s is scratch slot s. The last step makes the result.
struct ReducePlan {
  struct Step {
    int slot = 0, left = 0, right = 0;
  };
  std::vector<Step> steps;  // empty: the result is source 0
  int sources = 1;
  int slots = 0;  // scratch blocks that are in use at the same time
  // Half types: what a step makes is rounded, as if it travelled; else the last step's alone is.
  bool rounds_each_step = false;
};

// ((s0 + s1) + s2) + ... ; a caller that rotates the sources gets the order of a ring.
ReducePlan chain_plan(int sources);

// The tree over `virtual_ranks` leaves, run by `ranks` ranks: the sources are the maximal nodes of
// rank 0's block, then rank 1's and so on.
struct TreePlan {
  ReducePlan reduce;
  std::vector<int> first;  // (ranks + 1): the sources of rank r are [first[r], first[r + 1])
  int most = 1;            // of one rank

  int count(int rank) const { return first[rank + 1] - first[rank]; }
};
TreePlan tree_plan(int virtual_ranks, int ranks);
// The same over any nodes that cover a node of the tree from left to right, in the hands of
// `of_owners`.
TreePlan tree_plan(int virtual_ranks, const std::vector<std::vector<TreeNode>>& of_owners);

// Reduces arrays by `plan` and writes the result to every output. Works through all steps for one
// block of a few KiB after the other, so that each source is read once and each output written
// once. An output may be a source (the same pointer). Half types stay f32 from the first step to
// the last and are rounded once (combine.h), but for plans that round each step.
class Reducer {
 public:
  // `divisor`: the number of ranks, for ReduceOp::mean; with one source nothing is divided.
  // `stream`: the outputs, at least one and none of them a source, pass by the caches.
  void run(const ReducePlan& plan, DType dtype, ReduceOp op, int divisor,
           std::span<const std::byte* const> sources, std::span<std::byte* const> outputs,
           std::size_t elements, bool stream = false);

 private:
  std::byte* scratch(int slots);

  std::vector<std::byte> scratch_;  // grows to the largest plan, then stays
};

// Elements [begin, end) of rank r's slice of `count` elements; boundaries are multiples of 64
// bytes.
struct Slice {
  std::size_t begin = 0, end = 0;
  std::size_t size() const { return end - begin; }
};
Slice slice_of(std::size_t count, int ranks, int rank, std::size_t element_size);

}  // namespace peal
