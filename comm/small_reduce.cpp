#include "comm/small_reduce.h"

#include <algorithm>
#include <cstring>

namespace peal {

SmallReduce::SmallReduce(int ranks, int rank)
    : ranks_(ranks),
      rank_(rank),
      chain_(chain_plan(ranks)),
      pairs_(tree_plan(ranks, ranks).reduce),
      inputs_(kMostBytes) {}

void SmallReduce::begin(const Call& call) {
  const std::size_t bytes = call.count() * call.element_size();
  block_ = bytes * (call.tree != nullptr ? static_cast<std::size_t>(call.tree->most) : 1);
  for (int i = 0; i < call.input_count; ++i) {
    const auto k = static_cast<std::size_t>(i);
    std::memcpy(inputs_.data() + k * bytes, call.inputs[k], bytes);
  }
}

std::size_t SmallReduce::blocks(int distance) const {
  return static_cast<std::size_t>(std::min(distance, ranks_ - distance));
}

std::span<const std::byte> SmallReduce::outgoing(int distance) const {
  return {inputs_.data(), blocks(distance) * block_};
}

std::span<std::byte> SmallReduce::incoming(int distance) {
  return {inputs_.data() + static_cast<std::size_t>(distance) * block_, blocks(distance) * block_};
}

void SmallReduce::finish(const Call& call) {
  const std::size_t bytes = call.count() * call.element_size();
  sources_.clear();
  for (int r = 0; r < ranks_; ++r) {
    const auto k = static_cast<std::size_t>((rank_ - r + ranks_) % ranks_);
    const int inputs = call.tree != nullptr ? call.tree->count(r) : 1;
    for (int i = 0; i < inputs; ++i) {
      sources_.push_back(inputs_.data() + k * block_ + static_cast<std::size_t>(i) * bytes);
    }
  }
  std::byte* y = call.output();
  const bool ordered = call.record.algorithm == Algorithm::ordered_tree;
  const ReducePlan& plan = call.tree != nullptr ? call.tree->reduce : ordered ? pairs_ : chain_;
  reducer_.run(plan, call.record.dtype, call.record.op, ranks_, sources_, std::span(&y, 1),
               call.count());
}

}  // namespace peal
