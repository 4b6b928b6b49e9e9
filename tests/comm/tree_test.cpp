#include "comm/tree.h"

#include <gtest/gtest.h>

#include "core/base/error.h"

namespace peal {

static std::ostream& operator<<(std::ostream& out, TreeNode n) {
  return out << "[" << n.begin << ", " << n.end << ")";
}

namespace {

TEST(Tree, BlocksCoverAllVirtualRanksInOrder) {
  for (int v = 1; v <= 20; ++v) {
    for (int n = 1; n <= v; ++n) {
      int next = 0;
      for (int r = 0; r < n; ++r) {
        const TreeNode block = block_of(v, n, r);
        EXPECT_EQ(block.begin, next);
        EXPECT_GE(block.end - block.begin, v / n);
        EXPECT_LE(block.end - block.begin, (v + n - 1) / n);
        next = block.end;
      }
      EXPECT_EQ(next, v);
    }
  }
  EXPECT_THROW(block_of(4, 5, 0), Error);
}

TEST(Tree, SplitsAtTheLargestPowerOfTwoBelowTheSize) {
  EXPECT_EQ(maximal_nodes(7, {0, 7}), (std::vector<TreeNode>{{0, 7}}));
  EXPECT_EQ(maximal_nodes(7, {1, 7}), (std::vector<TreeNode>{{1, 2}, {2, 4}, {4, 7}}));
  EXPECT_EQ(maximal_nodes(8, {3, 6}), (std::vector<TreeNode>{{3, 4}, {4, 6}}));
  EXPECT_TRUE(is_node(7, {4, 7}));
  EXPECT_FALSE(is_node(7, {2, 6}));
  EXPECT_FALSE(is_node(7, {3, 3}));
}

TEST(Tree, OneNodePerRankWhenAllArePowersOfTwo) {
  for (int r = 0; r < 4; ++r) EXPECT_EQ(maximal_nodes(16, block_of(16, 4, r)).size(), 1u);
}

// Brackets of the sum as text: the order of additions, whoever makes them.
std::string brackets(int v, int n) {
  std::vector<TreeNode> nodes;
  for (int r = 0; r < n; ++r) {
    for (const TreeNode& node : maximal_nodes(v, block_of(v, n, r))) nodes.push_back(node);
  }
  std::vector<std::string> sums;
  for (const TreeNode& node : nodes) {
    std::vector<TreeNode> leaves;
    for (int i = node.begin; i < node.end; ++i) leaves.push_back({i, i + 1});
    std::vector<std::string> inner;
    for (const TreeNode& leaf : leaves) inner.push_back(std::to_string(leaf.begin));
    for (const TreeAdd& add : tree_schedule(v, leaves)) {
      inner[static_cast<std::size_t>(add.into)] = "(" + inner[static_cast<std::size_t>(add.into)] +
                                                  "+" + inner[static_cast<std::size_t>(add.from)] +
                                                  ")";
    }
    sums.push_back(inner[0]);
  }
  for (const TreeAdd& add : tree_schedule(v, nodes)) {
    sums[static_cast<std::size_t>(add.into)] = "(" + sums[static_cast<std::size_t>(add.into)] +
                                               "+" + sums[static_cast<std::size_t>(add.from)] + ")";
  }
  return sums[0];
}

TEST(Tree, TheOrderOfAdditionsDoesNotDependOnTheRankCount) {
  EXPECT_EQ(brackets(5, 1), "(((0+1)+(2+3))+4)");
  for (int v = 1; v <= 17; ++v) {
    for (int n = 2; n <= v; ++n) EXPECT_EQ(brackets(v, n), brackets(v, 1)) << v << " on " << n;
  }
}

TEST(Tree, RefusesListsThatCoverNoNode) {
  EXPECT_THROW(tree_schedule(8, {}), Error);
  EXPECT_THROW(tree_schedule(8, {{1, 2}, {2, 3}}), Error);
  EXPECT_THROW(tree_schedule(8, {{0, 1}, {2, 4}}), Error);
}

}  // namespace
}  // namespace peal
