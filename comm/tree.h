// The fixed binary tree over virtual ranks 0..V-1 that all sums of a RANK_INVARIANT job follow:
// a node of size > 1 splits at the largest power of two below its size.
#pragma once

#include <cstdint>
#include <vector>

namespace peal {

struct TreeNode {
  int begin = 0, end = 0;  // leaves [begin, end)
  friend bool operator==(const TreeNode&, const TreeNode&) = default;
};

// The contiguous block of virtual ranks that rank r of n runs; sizes differ by at most one.
TreeNode block_of(int virtual_ranks, int ranks, int rank);

// The largest nodes of the tree that lie inside `block`, from left to right: at most 2*log2(V),
// exactly one when V and the rank count are powers of two.
std::vector<TreeNode> maximal_nodes(int virtual_ranks, TreeNode block);

// Whether [begin, end) is a node of the tree.
bool is_node(int virtual_ranks, TreeNode node);

// The order in which a list of nodes that covers a node is added up: each step adds the sum at
// `from` onto the sum at `into` (indices into the list) and `into` then holds their parent. After
// all steps index 0 holds the total. The list must be sorted and cover one node without gaps.
struct TreeAdd {
  int into = 0, from = 0;
};
std::vector<TreeAdd> tree_schedule(int virtual_ranks, const std::vector<TreeNode>& nodes);

}  // namespace peal
