// All-reduce over several hosts: the ranks of a host reduce in shared memory, each a slice; slice
// by slice the hosts reduce over messages; the ranks of a host share the result in shared memory.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "comm/reduce_pipeline.h"
#include "comm/shared.h"

namespace peal {

// Which ranks are on which host.
struct HostLayout {
  // `host_of`: by rank, a number for its host.
  HostLayout(const std::vector<int>& host_of, int rank);

  std::vector<std::vector<int>> members;  // by host, in the order of their first ranks: its ranks
  int host = 0, local_rank = 0;           // of this rank
  int rails = 0;         // slices that are reduced between hosts: the ranks of the smallest host
  bool in_order = true;  // every host has a contiguous block of ranks
};

class HierarchicalCollectives {
 public:
  // `host`: among the ranks of this host, numbered by local rank.
  HierarchicalCollectives(Messages& messages, SharedTransport& host, HostLayout layout, int ranks);

  // All-reduces of one array on each rank. Direct: needs every host to have its ranks in a row.
  void run(const Call& call, bool around_ring);
  void reset();  // after a failure

 private:
  // The inputs of a host become a few partial sums: one, or the maximal nodes of its virtual ranks.
  struct Plan {
    std::vector<TreePlan> inside;          // by partial sum: over the inputs of the host's ranks
    std::vector<std::vector<int>> inputs;  // by partial sum: which of this rank's inputs
    TreePlan across;                       // over the partial sums of the hosts
  };
  Plan chain() const;
  Plan tree(int virtual_ranks) const;
  const Plan& tree_for(const Call& call);
  void begin_piece(const Call& call, const Plan& plan, Slice piece, int place);
  void reduce_inside(const Call& call, const Plan& plan, int partial, Slice piece, std::byte* y);
  void share(const Call& call, Slice piece);
  void run_inside(Call& inside, const Call& whole);
  void set_bounds(const Call& call, Slice piece);
  int local_ranks() const;
  Slice block() const;

  HostLayout layout_;
  int ranks_;
  SharedTransport& host_;
  ReducePipeline pipeline_;
  Plan chain_;
  std::map<int, Plan> trees_;         // by virtual ranks; only ever grows
  std::vector<std::int64_t> bounds_;  // of the slices of a piece, by local rank
  std::array<std::vector<std::byte>, ReducePipeline::kPieces>
      partials_;  // after the first, by piece
  std::vector<const std::byte*> inputs_;
};

// What the ranks of a host share, of a communicator that spans several.
struct HostShare {
  std::shared_ptr<SharedSpace> space;  // null on all ranks, or on none
  HostLayout layout;
};

// This rank's part in calls that begin in shared memory.
struct HostPart {
  HostPart(const Watch& all, HostShare share, Messages& messages, Beyond& beyond);

  void update(const Watch& all);  // deadline and the like, as the whole communicator's are now

  Watch watch;
  SharedTransport shared;
  HierarchicalCollectives collectives;

 private:
  const Watch& watch_of(const Watch& all, const HostLayout& layout);
};

}  // namespace peal
