#include "launcher/gradient_tree.h"

#include <algorithm>

#include "core/base/error.h"
#include "core/kernels/kernels.h"

namespace peal {
namespace {

Tensor floats(const Device& device, std::byte* arena, std::size_t begin, std::size_t end) {
  return {.data = arena + begin,
          .shape = {static_cast<std::int64_t>((end - begin) / sizeof(float))},
          .device = device};
}

void add(Stream& s, const std::byte* from, std::byte* into, std::size_t begin, std::size_t end) {
  if (begin == end) return;
  kernels(s.device())
      .accumulate(s, floats(s.device(), const_cast<std::byte*>(from), begin, end),
                  floats(s.device(), into, begin, end));
}

}  // namespace

GradientTree::GradientTree(int tree_leaves, TreeNode block, int lanes, int parts,
                           std::size_t arena_bytes, GradientBuckets& buckets, const Device& device)
    : tree_leaves_(tree_leaves),
      parts_(parts),
      arena_bytes_(arena_bytes),
      buckets_(buckets),
      device_(device) {
  const int leaves = block.end - block.begin;
  lanes_.resize(static_cast<std::size_t>(std::clamp(lanes, 1, leaves)));
  for (int i = 0; i < this->lanes(); ++i) {
    Lane& lane = lane_at(i);
    const TreeNode part = block_of(leaves, this->lanes(), i);
    lane.leaves = {block.begin + part.begin, block.begin + part.end};
    lane.nodes = maximal_nodes(tree_leaves, lane.leaves);
    if (parts > 1) lane.micro = make_arena();
  }
  // The leftmost lane node inside each partial sum of the rank lives in the buckets' arena.
  const std::vector<TreeNode> partials = maximal_nodes(tree_leaves, block);
  for (std::size_t p = 0; p < partials.size(); ++p) {
    std::vector<TreeNode> nodes;
    std::vector<std::byte*> homes;
    for (Lane& lane : lanes_) {
      for (const TreeNode& node : lane.nodes) {
        if (node.begin < partials[p].begin || node.end > partials[p].end) continue;
        homes.push_back(homes.empty() ? buckets.partial(static_cast<int>(p)) : make_arena());
        nodes.push_back(node);
        lane.homes.push_back(homes.back());
      }
    }
    for (const TreeAdd& step : tree_schedule(tree_leaves, nodes)) {
      across_lanes_.push_back(
          {homes[static_cast<std::size_t>(step.into)], homes[static_cast<std::size_t>(step.from)]});
    }
  }
  for (Lane& lane : lanes_) {
    std::size_t depth = 0;  // stack entries below the top that a node of this size can need
    for (const TreeNode& node : lane.nodes) {
      std::size_t levels = 0;
      while ((1 << levels) < node.end - node.begin) ++levels;
      depth = std::max(depth, levels);
    }
    for (std::size_t i = 0; i < depth; ++i) lane.spare.push_back(make_arena());
    lane.stack.reserve(depth + 1);
  }
}

std::byte* GradientTree::make_arena() {
  arenas_.emplace_back(arena_bytes_, device_);
  return arenas_.back().data();
}

// Gradients on a device travel as they are, so that their sums round as f32 alone.
void GradientTree::add_nodes(Stream& s, const std::byte* from, std::byte* into, std::size_t begin,
                             std::size_t end) {
  if (device_.kind == Device::Kind::cpu) {
    buckets_.add_nodes(from, into, begin, end);
  } else {
    add(s, from, into, begin, end);
  }
}

std::size_t GradientTree::bytes() const {
  return arenas_.size() * arena_bytes_ + buckets_.bytes();
}

void GradientTree::begin_step(std::int64_t) {
  for (Lane& lane : lanes_) {
    lane.stack.clear();
    lane.node = lane.merged = lane.final = 0;
  }
  published_ = 0;
}

bool GradientTree::last(const Lane& lane, int leaf, int part) const {
  return leaf + 1 == lane.leaves.end && part + 1 == parts_;
}

std::byte* GradientTree::target(int lane_index, int leaf, int part) {
  Lane& lane = lane_at(lane_index);
  if (part > 0) return lane.micro;
  const std::size_t depth = lane.stack.size();
  std::byte* arena = depth == 0 ? lane.homes[lane.node] : lane.spare[depth - 1];
  lane.stack.push_back({{leaf, leaf + 1}, arena});
  return arena;
}

// Adds [begin, end) of the part at hand onto its leaf, and every finished sum onto its left
// sibling, without changing the stack.
void GradientTree::merge_slice(Stream& s, Lane& lane, int part, std::size_t begin,
                               std::size_t end) {
  std::size_t top = lane.stack.size() - 1;
  if (part > 0) add(s, lane.micro, lane.stack[top].arena, begin, end);
  if (part + 1 < parts_) return;
  TreeNode node = lane.stack[top].node;
  for (; top > 0; --top) {
    const TreeNode joined{lane.stack[top - 1].node.begin, node.end};
    if (!is_node(tree_leaves_, joined)) break;
    add_nodes(s, lane.stack[top].arena, lane.stack[top - 1].arena, begin, end);
    node = joined;
  }
}

void GradientTree::fold_stack(Lane& lane) {
  while (lane.stack.size() > 1) {
    Entry& left = lane.stack[lane.stack.size() - 2];
    const TreeNode joined{left.node.begin, lane.stack.back().node.end};
    if (!is_node(tree_leaves_, joined)) break;
    left.node = joined;
    lane.stack.pop_back();
  }
  if (lane.stack.size() == 1 && lane.stack[0].node == lane.nodes[lane.node]) {
    lane.stack.clear();
    ++lane.node;
  }
}

void GradientTree::ready(Stream& s, int lane_index, int leaf, int part, std::size_t bytes_final) {
  Lane& lane = lane_at(lane_index);
  if (!last(lane, leaf, part) || bytes_final == lane.merged) return;
  merge_slice(s, lane, part, lane.merged, bytes_final);
  lane.merged = bytes_final;
  const std::lock_guard lock(mutex_);
  lane.final = bytes_final;
  if (overlap_) publish(s);
}

void GradientTree::end_part(Stream& s, int lane_index, int leaf, int part) {
  Lane& lane = lane_at(lane_index);
  if (last(lane, leaf, part)) {
    ready(s, lane_index, leaf, part, arena_bytes_);
    const std::lock_guard lock(mutex_);
    publish(s);
  } else {
    merge_slice(s, lane, part, 0, arena_bytes_);
  }
  if (part + 1 == parts_) fold_stack(lane);
}

// What every lane has finished is joined across lanes and goes to the buckets.
void GradientTree::publish(Stream& s) {
  std::size_t final = arena_bytes_;
  for (const Lane& lane : lanes_) final = std::min(final, lane.final);
  if (final == published_ || (!overlap_ && final < arena_bytes_)) return;
  for (const Add& step : across_lanes_) {
    add_nodes(s, step.from, step.into, published_, final);
  }
  published_ = final;
  buckets_.ready(s, final);
}

}  // namespace peal
