#include "comm/small_reduce.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "comm/index.h"

namespace peal {

SmallReduce::SmallReduce(int ranks, int rank)
    : ranks_(ranks),
      rank_(rank),
      pairs_of_ranks_(std::has_single_bit(static_cast<unsigned>(ranks))),
      chain_(chain_plan(ranks)),
      pairs_(tree_plan(ranks, ranks).reduce),
      two_(chain_plan(2)),
      inputs_(kMostBytes) {}

int SmallReduce::to(int distance) const {
  return pairs_of_ranks_ ? rank_ ^ distance : (rank_ + distance) % ranks_;
}

int SmallReduce::from(int distance) const {
  return pairs_of_ranks_ ? rank_ ^ distance : (rank_ - distance + ranks_) % ranks_;
}

std::size_t SmallReduce::place(int rank) const {
  return at(pairs_of_ranks_ ? rank : (rank_ - rank + ranks_) % ranks_);
}

std::size_t SmallReduce::first(int distance) const {
  return pairs_of_ranks_ ? at(rank_ & ~(distance - 1)) : 0;
}

void SmallReduce::begin(const Call& call, bool doubling) {
  const std::size_t bytes = call.count() * call.element_size();
  doubling_ = doubling;
  block_ = bytes * (call.tree != nullptr ? at(call.tree->most) : 1);
  std::byte* mine = inputs_.data() + (doubling ? 0 : place(rank_) * block_);
  for (int i = 0; i < call.input_count; ++i) {
    std::memcpy(mine + at(i) * bytes, call.inputs[at(i)], bytes);
  }
}

std::size_t SmallReduce::blocks(int distance) const {
  return doubling_ ? 1 : at(std::min(distance, ranks_ - distance));
}

std::span<const std::byte> SmallReduce::outgoing(int distance) const {
  const std::size_t begin = doubling_ ? 0 : first(distance);
  return {inputs_.data() + begin * block_, blocks(distance) * block_};
}

std::span<std::byte> SmallReduce::incoming(int distance) {
  const std::size_t begin = doubling_ ? 1 : first(distance) ^ at(distance);
  return {inputs_.data() + begin * block_, blocks(distance) * block_};
}

void SmallReduce::arrived(const Call& call, int distance) {
  if (!doubling_) return;
  const std::byte *mine = inputs_.data(), *theirs = mine + block_;
  const bool low = (rank_ & distance) == 0, last = 2 * distance == ranks_;
  const std::byte* sources[] = {low ? mine : theirs, low ? theirs : mine};
  std::byte* sum = last ? call.output() : inputs_.data();
  const bool sums = call.record.op == ReduceOp::mean && !last;
  reducer_.run(two_, call.record.dtype, sums ? ReduceOp::sum : call.record.op, ranks_, sources,
               std::span(&sum, 1), call.count());
}

void SmallReduce::finish(const Call& call) {
  if (doubling_) return;
  const std::size_t bytes = call.count() * call.element_size();
  sources_.clear();
  for (int r = 0; r < ranks_; ++r) {
    const int inputs = call.tree != nullptr ? call.tree->count(r) : 1;
    for (int i = 0; i < inputs; ++i) {
      sources_.push_back(inputs_.data() + place(r) * block_ + at(i) * bytes);
    }
  }
  std::byte* y = call.output();
  const bool ordered = call.record.algorithm == Algorithm::ordered_tree;
  const ReducePlan& plan = call.tree != nullptr ? call.tree->reduce : ordered ? pairs_ : chain_;
  reducer_.run(plan, call.record.dtype, call.record.op, ranks_, sources_, std::span(&y, 1),
               call.count());
}

}  // namespace peal
