// Sums the gradients of a rank's virtual ranks along the fixed tree, with several lanes (threads)
// at work, and hands slices to the buckets as soon as every lane has finished them.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "comm/buckets.h"
#include "core/device/buffer.h"
#include "core/device/stream.h"
#include "launcher/gradient_sum.h"

namespace peal {

// A lane keeps a stack of sums like a binary counter: a leaf's gradient is written on top of the
// stack, and two sums that are siblings in the tree become one. Memory: one arena for each entry of
// the deepest stack of each lane, less what the buckets' own arenas serve.
class GradientTree final : public GradientSum {
 public:
  // `tree_leaves`: leaves of the whole tree, of which `block` is this rank's part. The buckets hold
  // one arena for each of maximal_nodes(tree_leaves, block).
  GradientTree(int tree_leaves, TreeNode block, int lanes, int parts, std::size_t arena_bytes,
               GradientBuckets& buckets, const Device& device = kCpu);

  int lanes() const override { return static_cast<int>(lanes_.size()); }
  TreeNode leaves(int lane) const override { return lanes_[static_cast<std::size_t>(lane)].leaves; }

  void set_overlap(bool overlap) override { overlap_ = overlap; }
  void begin_step(std::int64_t step) override;
  std::byte* target(int lane, int leaf, int part) override;
  void ready(Stream& s, int lane, int leaf, int part, std::size_t bytes_final) override;
  std::vector<std::size_t> bounds() const override { return buckets_.ends(); }
  void end_part(Stream& s, int lane, int leaf, int part) override;
  void finish(Stream& s, const OnSlice& on_slice) override { buckets_.finish(s, on_slice); }
  std::size_t slices() const override { return buckets_.bucket_count(); }
  std::byte* total() override { return buckets_.partial(0); }

  std::size_t bytes() const override;  // with the buckets'
  Errors errors() const override {
    return buckets_.error() != nullptr ? Errors::by_rank : Errors::none;
  }
  std::byte* error(int) override { return buckets_.error(); }

 private:
  struct Entry {
    TreeNode node;
    std::byte* arena = nullptr;
  };
  struct Lane {
    TreeNode leaves;
    std::vector<TreeNode> nodes;    // maximal nodes of `leaves`
    std::vector<std::byte*> homes;  // arena of each node
    std::vector<std::byte*> spare;  // deeper stack entries
    std::byte* micro = nullptr;     // parts after the first
    std::vector<Entry> stack;       // of the node at hand
    std::size_t node = 0;           // index into nodes
    std::size_t merged = 0;         // bytes of the last leaf already merged
    std::size_t final = 0;          // bytes final in all of this lane's nodes
  };
  struct Add {
    std::byte* into;
    const std::byte* from;
  };

  Lane& lane_at(int lane) { return lanes_[static_cast<std::size_t>(lane)]; }
  std::byte* make_arena();
  void add_nodes(Stream& s, const std::byte* from, std::byte* into, std::size_t begin,
                 std::size_t end);
  bool last(const Lane& lane, int leaf, int part) const;
  void merge_slice(Stream& s, Lane& lane, int part, std::size_t begin, std::size_t end);
  void fold_stack(Lane& lane);
  void publish(Stream& s);

  int tree_leaves_;
  int parts_;
  std::size_t arena_bytes_;
  GradientBuckets& buckets_;
  std::vector<Lane> lanes_;
  Device device_;
  std::vector<Buffer> arenas_;
  std::vector<Add> across_lanes_;  // joins the lanes' nodes into the rank's partial sums
  std::mutex mutex_;
  std::size_t published_ = 0;
  bool overlap_ = true;
};

}  // namespace peal
