#include "comm/tree.h"

#include <bit>

#include "core/base/error.h"

namespace peal {
namespace {

// Where a node of size > 1 splits: at the largest power of two below its size.
int middle_of(TreeNode node) {
  const auto size = static_cast<unsigned>(node.end - node.begin);
  return node.begin + static_cast<int>(std::bit_floor(size - 1));
}

bool inside(TreeNode node, TreeNode block) {
  return block.begin <= node.begin && node.end <= block.end;
}

void collect(TreeNode node, TreeNode block, std::vector<TreeNode>& out) {
  if (node.end <= block.begin || block.end <= node.begin) return;
  if (inside(node, block)) {
    out.push_back(node);
    return;
  }
  const int middle = middle_of(node);
  collect({node.begin, middle}, block, out);
  collect({middle, node.end}, block, out);
}

std::string to_string(TreeNode node) {
  return cat("[", node.begin, ", ", node.end, ")");
}

// Adds up `nodes` from index `next` on until they cover `node`; returns the index of the sum.
int schedule(TreeNode node, const std::vector<TreeNode>& nodes, std::size_t& next,
             std::vector<TreeAdd>& adds) {
  if (next < nodes.size() && nodes[next] == node) return static_cast<int>(next++);
  if (node.end - node.begin <= 1) {
    fail_internal("tree_schedule", "the list has no node that covers leaf ", node.begin);
  }
  const int middle = middle_of(node);
  const int left = schedule({node.begin, middle}, nodes, next, adds);
  const int right = schedule({middle, node.end}, nodes, next, adds);
  adds.push_back({left, right});
  return left;
}

}  // namespace

TreeNode block_of(int virtual_ranks, int ranks, int rank) {
  if (ranks < 1 || virtual_ranks < ranks || rank < 0 || rank >= ranks) {
    fail_input("virtual ranks", "rank ", rank, " of ", ranks, " cannot share ", virtual_ranks,
               " virtual ranks; 1 to ", virtual_ranks, " ranks can");
  }
  const auto bound = [&](std::int64_t r) { return static_cast<int>(r * virtual_ranks / ranks); };
  return {bound(rank), bound(rank + 1)};
}

std::vector<TreeNode> maximal_nodes(int virtual_ranks, TreeNode block) {
  std::vector<TreeNode> nodes;
  if (block.begin < block.end) collect({0, virtual_ranks}, block, nodes);
  return nodes;
}

bool is_node(int virtual_ranks, TreeNode node) {
  if (node.begin >= node.end || !inside(node, {0, virtual_ranks})) return false;
  const std::vector<TreeNode> nodes = maximal_nodes(virtual_ranks, node);
  return nodes.size() == 1;
}

std::vector<TreeAdd> tree_schedule(int virtual_ranks, const std::vector<TreeNode>& nodes) {
  if (nodes.empty()) fail_internal("tree_schedule", "the list of nodes is empty");
  const TreeNode root{nodes.front().begin, nodes.back().end};
  if (!is_node(virtual_ranks, root)) {
    fail_internal("tree_schedule", to_string(root), " is not a node of the tree over ",
                  virtual_ranks, " virtual ranks");
  }
  std::vector<TreeAdd> adds;
  std::size_t next = 0;
  schedule(root, nodes, next, adds);
  if (next != nodes.size()) {
    fail_internal("tree_schedule", "node ", to_string(nodes[next]), " lies outside ",
                  to_string(root), " or out of order");
  }
  return adds;
}

}  // namespace peal
