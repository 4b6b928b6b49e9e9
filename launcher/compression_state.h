// The state of compression in checkpoints: errors that ranks hold, brought together on rank 0 and
// given out again to any number of ranks, and what all ranks have alike.
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "core/device/buffer.h"
#include "launcher/gradient_sum.h"

namespace peal {

// An error has the name error.V/PARAMETER, V being the first virtual rank that it stands for. Only
// the sum of all errors counts in a step, so a rank takes the sum of those of its virtual ranks:
// errors by rank go on at any number of ranks, and errors by virtual rank are the same bits there.
class CompressionState {
 public:
  // Collective. `sum` and `comm` outlive it.
  CompressionState(Communicator& comm, const ParameterTable& table, int virtual_ranks,
                   GradientSum& sum);

  // On rank 0: all state, in memory that stays where it is; errors of other ranks are as they were
  // at the last collect().
  std::vector<NamedTensor> tensors();
  void collect(Stream& s);  // collective

  // Gives out what a checkpoint holds; `saved` is read on rank 0, after check(). Collective.
  void restore(Stream& s, const std::vector<NamedTensor>& saved);
  // Throws Error(input) at `file` when a tensor is missing, left over or of another shape.
  void check(const std::vector<NamedTensor>& saved, const std::string& file);

 private:
  std::vector<TreeNode> ranges(int rank) const;  // of virtual ranks, one an error
  Tensor bytes(std::byte* arena) const;
  void add_up(const std::vector<NamedTensor>& saved, TreeNode range, std::byte* arena) const;

  Communicator& comm_;
  GradientSum& sum_;
  int virtual_ranks_;
  std::size_t arena_bytes_;
  std::vector<ArenaEntry> entries_;
  std::vector<Buffer> gathered_;  // rank 0: errors of the other ranks, in order
};

}  // namespace peal
