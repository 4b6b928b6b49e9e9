#include "comm/reduce.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "comm/combine.h"
#include "comm/stream_copy.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

constexpr std::size_t kBlockBytes = 4096;

void add_step(ReducePlan& plan, std::vector<int>& free_slots, int& left, int right) {
  int slot = 0;
  if (left < 0) {
    slot = ~left;
    if (right < 0) free_slots.push_back(~right);
  } else if (right < 0) {
    slot = ~right;
  } else if (!free_slots.empty()) {
    slot = free_slots.back();
    free_slots.pop_back();
  } else {
    slot = plan.slots++;
  }
  plan.steps.push_back({slot, left, right});
  left = ~slot;
}

}  // namespace

ReducePlan chain_plan(int sources) {
  ReducePlan plan;
  plan.sources = sources;
  std::vector<int> free_slots;
  int sum = 0;
  for (int k = 1; k < sources; ++k) add_step(plan, free_slots, sum, k);
  return plan;
}

TreePlan tree_plan(int virtual_ranks, int ranks) {
  std::vector<std::vector<TreeNode>> of_ranks;
  for (int r = 0; r < ranks; ++r) {
    of_ranks.push_back(maximal_nodes(virtual_ranks, block_of(virtual_ranks, ranks, r)));
  }
  return tree_plan(virtual_ranks, of_ranks);
}

TreePlan tree_plan(int virtual_ranks, const std::vector<std::vector<TreeNode>>& of_owners) {
  TreePlan plan;
  std::vector<TreeNode> nodes;
  plan.first.push_back(0);
  for (const std::vector<TreeNode>& mine : of_owners) {
    nodes.insert(nodes.end(), mine.begin(), mine.end());
    plan.first.push_back(static_cast<int>(nodes.size()));
    plan.most = std::max(plan.most, static_cast<int>(mine.size()));
  }
  plan.reduce.sources = static_cast<int>(nodes.size());
  std::vector<int> operand(nodes.size()), free_slots;
  for (std::size_t k = 0; k < nodes.size(); ++k) operand[k] = static_cast<int>(k);
  for (const TreeAdd& add : tree_schedule(virtual_ranks, nodes)) {
    add_step(plan.reduce, free_slots, operand[add.into], operand[add.from]);
  }
  return plan;
}

void Reducer::run(const ReducePlan& plan, DType dtype, ReduceOp op, int divisor,
                  std::span<const std::byte* const> sources, std::span<std::byte* const> outputs,
                  std::size_t elements, bool stream) {
  const std::size_t size = size_of(dtype), block = kBlockBytes / partial_size(dtype);
  const bool divides = op == ReduceOp::mean && divisor > 1;
  const bool rounds = plan.rounds_each_step && partial_is_f32(dtype);
  const bool finishes = !plan.steps.empty() && (divides || partial_is_f32(dtype)) && !rounds;
  const FinishBlock finish = finishes || rounds ? finish_of(dtype) : nullptr;
  std::byte* slot0 = scratch(plan.slots);
  const auto slot = [&](int s) { return slot0 + static_cast<std::size_t>(s) * kBlockBytes; };

  for (std::size_t at = 0; at < elements; at += block) {
    const std::size_t n = std::min(block, elements - at);
    const auto operand = [&](int k) { return k >= 0 ? sources[k] + at * size : slot(~k); };
    // What comes last goes to the first output at once: loads and stores of memory overlap.
    std::byte* const last = stream ? slot(plan.slots) : outputs[0] + at * size;
    const std::byte* result = sources[0] + at * size;
    for (const ReducePlan::Step& step : plan.steps) {
      const bool ends = !finishes && !rounds && &step == &plan.steps.back();
      std::byte* into = ends ? last : slot(step.slot);
      std::byte* sum = rounds ? slot(plan.slots) : into;
      combine_of(dtype, step.left < 0 && !rounds, step.right < 0 && !rounds)(
          op, sum, operand(step.left), operand(step.right), n);
      if (rounds) finish(into, sum, 1, n);
      result = into;
    }
    if (finishes) {
      finish(last, result, divides ? divisor : 1, n);
      result = last;
    }
    for (std::byte* output : outputs) {
      std::byte* to = output + at * size;
      if (stream) {
        stream_copy(to, result, n * size);
      } else if (to != result) {
        std::memcpy(to, result, n * size);
      }
    }
  }
  if (stream) stream_fence();
}

// The slots of a plan and one for the end, aligned.
std::byte* Reducer::scratch(int slots) {
  const std::size_t bytes = static_cast<std::size_t>(slots + 2) * kBlockBytes;
  if (scratch_.size() < bytes) scratch_.resize(bytes);
  const auto address = reinterpret_cast<std::uintptr_t>(scratch_.data());
  return scratch_.data() + (align_up(address) - address);
}

Slice slice_of(std::size_t count, int ranks, int rank, std::size_t element_size) {
  if (count * element_size <= kAlignment) return rank + 1 == ranks ? Slice{0, count} : Slice{};
  const std::size_t unit = kAlignment / element_size;
  const std::size_t units = (count + unit - 1) / unit;
  const auto bound = [&](std::size_t r) {
    return std::min(count, units * r / static_cast<std::size_t>(ranks) * unit);
  };
  return {bound(rank), bound(rank + 1)};
}

}  // namespace peal
