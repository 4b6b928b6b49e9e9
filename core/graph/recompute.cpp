// Recomputation of blocks (Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost",
// https://arxiv.org/abs/1604.06174): what lives inside a block lives twice, in forward and, made
// again by the same calls from the same bits, in the block's backward. The calls, their order and
// the order of gradients stay what they are without.
#include <algorithm>

#include "core/graph/plan_builder.h"

namespace peal {

// What a block's forward writes and nobody outside the block reads, in forward or backward.
void PlanBuilder::find_what_blocks_own() {
  constexpr int kNobody = -2, kSeveral = -1;
  std::vector<int> user(storages_.size(), kNobody);
  const auto see = [&](const PlanCall& call) {
    for (const int used : call.uses) {
      if (entry(used).storage < 0) continue;  // a gradient
      int& block = user[static_cast<std::size_t>(entry(used).storage)];
      block = block == kNobody || block == call.block ? call.block : kSeveral;
    }
  };
  for (const PlanCall& call : program_->forward) see(call);
  for (const std::vector<PlanCall>& calls : step_backward_)
    for (const PlanCall& call : calls) see(call);
  for (const PlanCall& call : program_->forward)
    for (const int written : call.writes)
      if (!storage_of(written).kept)
        storage_of(written).block = user[static_cast<std::size_t>(entry(written).storage)];
}

// The forward calls of a block that make what its backward reads of its own, and so on back to its
// border.
std::vector<PlanCall> PlanBuilder::calls_made_again(int block) const {
  std::vector<bool> wanted(storages_.size());
  const auto storage = [&](int used) { return entries_[static_cast<std::size_t>(used)].storage; };
  const auto want = [&](const PlanCall& call) {
    for (const int used : call.uses) {
      if (storage(used) < 0) continue;
      const auto index = static_cast<std::size_t>(storage(used));
      if (storages_[index].block == block) wanted[index] = true;
    }
  };
  for (const std::vector<PlanCall>& calls : step_backward_)
    for (const PlanCall& call : calls)
      if (call.block == block) want(call);
  std::vector<PlanCall> again;
  for (auto call = program_->forward.rbegin(); call != program_->forward.rend(); ++call) {
    const bool makes = std::any_of(call->writes.begin(), call->writes.end(), [&](int written) {
      return wanted[static_cast<std::size_t>(storage(written))];
    });
    if (call->block != block || !makes) continue;
    want(*call);
    again.push_back(*call);
    again.back().op += " again";
    again.back().again = true;
  }
  std::reverse(again.begin(), again.end());
  return again;
}

}  // namespace peal
