#include "comm/hierarchical.h"

#include <algorithm>

#include "comm/combine.h"
#include "comm/index.h"
#include "core/base/error.h"

namespace peal {
namespace {

// The ranks with this one's place on their hosts; none where the smallest host has no such rank.
std::vector<int> rail_of(const HostLayout& layout) {
  std::vector<int> ranks;
  if (layout.local_rank >= layout.rails) return ranks;
  for (const std::vector<int>& members : layout.members) {
    ranks.push_back(members[at(layout.local_rank)]);
  }
  return ranks;
}

}  // namespace

HostLayout::HostLayout(const std::vector<int>& host_of, int rank) {
  std::vector<int> numbers;  // of the hosts in the order of their first ranks
  for (std::size_t r = 0; r < host_of.size(); ++r) {
    const auto known = std::find(numbers.begin(), numbers.end(), host_of[r]);
    const auto index = static_cast<std::size_t>(known - numbers.begin());
    if (known == numbers.end()) {
      numbers.push_back(host_of[r]);
      members.emplace_back();
    } else if (host_of[r - 1] != host_of[r]) {
      in_order = false;
    }
    if (static_cast<int>(r) == rank) {
      host = static_cast<int>(index);
      local_rank = static_cast<int>(members[index].size());
    }
    members[index].push_back(static_cast<int>(r));
  }
  rails = static_cast<int>(members[0].size());
  for (const std::vector<int>& ranks : members) {
    rails = std::min(rails, static_cast<int>(ranks.size()));
  }
}

HierarchicalCollectives::HierarchicalCollectives(Messages& messages, SharedTransport& host,
                                                 HostLayout layout, int ranks)
    : layout_(std::move(layout)),
      ranks_(ranks),
      host_(host),
      pipeline_(messages, rail_of(layout_), layout_.host),
      chain_(chain()) {}

HostPart::HostPart(const Watch& all, HostShare share, Messages& messages, Beyond& beyond)
    : shared(std::move(share.space), watch_of(all, share.layout), /*most_mail=*/0, &beyond),
      collectives(messages, shared, std::move(share.layout), all.ranks()) {}

void HostPart::update(const Watch& all) {
  watch.deadline.store(all.deadline.load());
  watch.step.store(all.step.load());
  watch.spin.store(all.spin.load());
}

const Watch& HostPart::watch_of(const Watch& all, const HostLayout& layout) {
  watch.rank = layout.local_rank;
  for (const int r : layout.members[at(layout.host)]) {
    watch.names.push_back(all.names[at(r)]);
    watch.numbers.push_back(all.numbers.empty() ? r : all.numbers[at(r)]);
  }
  return watch;
}

int HierarchicalCollectives::local_ranks() const {
  return static_cast<int>(layout_.members[at(layout_.host)].size());
}

// Of the piece whose bounds are set, what this rank reduces.
Slice HierarchicalCollectives::block() const {
  const auto mine = at(layout_.local_rank);
  return {static_cast<std::size_t>(bounds_[mine]), static_cast<std::size_t>(bounds_[mine + 1])};
}

void HierarchicalCollectives::reset() {
  pipeline_.reset();
}

HierarchicalCollectives::Plan HierarchicalCollectives::chain() const {
  Plan plan;
  TreePlan inside;
  inside.reduce = chain_plan(local_ranks());
  for (int r = 0; r <= local_ranks(); ++r) inside.first.push_back(r);
  plan.inside.push_back(std::move(inside));
  plan.inputs.push_back({0});
  return plan;
}

// The leaves of a host are a contiguous block; what its ranks hold covers the block's maximal
// nodes.
HierarchicalCollectives::Plan HierarchicalCollectives::tree(int virtual_ranks) const {
  const auto nodes_of = [&](int first, int last) {
    const TreeNode block{block_of(virtual_ranks, ranks_, first).begin,
                         block_of(virtual_ranks, ranks_, last).end};
    return maximal_nodes(virtual_ranks, block);
  };
  Plan plan;
  std::vector<std::vector<TreeNode>> of_hosts;
  for (const std::vector<int>& ranks : layout_.members) {
    of_hosts.push_back(nodes_of(ranks.front(), ranks.back()));
  }
  plan.across = tree_plan(virtual_ranks, of_hosts);
  plan.across.reduce.rounds_each_step = true;
  for (const TreeNode& node : of_hosts[at(layout_.host)]) {
    std::vector<std::vector<TreeNode>> of_ranks;
    std::vector<int> inputs;
    for (const int rank : layout_.members[at(layout_.host)]) {
      const std::vector<TreeNode> all = nodes_of(rank, rank);
      of_ranks.emplace_back();
      for (std::size_t i = 0; i < all.size(); ++i) {
        if (all[i].begin < node.begin || all[i].end > node.end) continue;
        of_ranks.back().push_back(all[i]);
        if (rank == layout_.members[at(layout_.host)][at(layout_.local_rank)]) {
          inputs.push_back(static_cast<int>(i));
        }
      }
    }
    plan.inside.push_back(tree_plan(virtual_ranks, of_ranks));
    plan.inside.back().reduce.rounds_each_step = true;
    plan.inputs.push_back(std::move(inputs));
  }
  return plan;
}

const HierarchicalCollectives::Plan& HierarchicalCollectives::tree_for(const Call& call) {
  const int virtual_ranks = call.tree != nullptr ? call.record.parameter : ranks_;
  const auto found = trees_.find(virtual_ranks);
  if (found != trees_.end()) return found->second;
  return trees_.emplace(virtual_ranks, tree(virtual_ranks)).first->second;
}

void HierarchicalCollectives::set_bounds(const Call& call, Slice piece) {
  bounds_.assign(1, 0);
  for (int r = 0; r < local_ranks(); ++r) {
    const int rail = std::min(r, layout_.rails - 1);
    const Slice slice = slice_of(piece.size(), layout_.rails, rail, call.element_size());
    bounds_.push_back(static_cast<std::int64_t>(slice.end));
  }
}

// With h hosts of l ranks each and p partial sums of a host: in shared memory p + 1 calls of 2
// meetings a piece, reading N (inputs p N) and N bytes; between hosts every rank sends
// 2 (h-1)/h N/l bytes, in 2 (h-1) steps around a ring or (p+1) (h-1)/h N/l in 2 steps along a tree.
void HierarchicalCollectives::run(const Call& call, bool around_ring) {
  constexpr std::size_t kAtOnce = ReducePipeline::kPieces;
  const Plan& plan = around_ring ? chain_ : tree_for(call);
  const std::size_t step = at(layout_.rails) *
                           ReducePipeline::piece_bytes(static_cast<int>(layout_.members.size())) /
                           call.element_size();
  const std::size_t pieces = (call.count() + step - 1) / step;
  const auto piece = [&](std::size_t i) {
    return Slice{i * step, std::min(call.count(), (i + 1) * step)};
  };
  for (std::size_t i = 0; i < pieces + kAtOnce; ++i) {
    if (i >= kAtOnce && i - kAtOnce < pieces) {
      if (pipeline_.peers() > 0) pipeline_.finish_oldest(call);
      share(call, piece(i - kAtOnce));
    }
    if (i < pieces) begin_piece(call, plan, piece(i), static_cast<int>(i % kAtOnce));
  }
}

void HierarchicalCollectives::begin_piece(const Call& call, const Plan& plan, Slice piece,
                                          int place) {
  set_bounds(call, piece);
  const std::size_t size = call.element_size(), bytes = block().size() * size;
  std::byte* y = call.output() + (piece.begin + block().begin) * size;
  std::vector<std::byte>& more = partials_[at(place)];
  const std::size_t needed = (plan.inside.size() - 1) * bytes;
  if (more.size() < needed) more.resize(needed);
  inputs_.clear();
  for (std::size_t i = 0; i < plan.inside.size(); ++i) {
    const bool last = i + 1 == plan.inside.size();
    std::byte* sum = last ? y : more.data() + i * bytes;
    reduce_inside(call, plan, static_cast<int>(i), piece, sum);
    inputs_.push_back(sum);
  }
  if (pipeline_.peers() == 0) return;
  ReducePipeline::Work work;
  work.dtype = call.record.dtype;
  work.op = call.record.op;
  work.divisor = ranks_;
  if (&plan == &chain_) {
    work.order = ReducePipeline::Order::ring;
  } else {
    work.plan = &plan.across.reduce;
    work.tree = &plan.across;
  }
  pipeline_.begin(work, {inputs_, y, block().size()});
}

// Among the ranks of this host, for the piece whose bounds are set; it bears the name of `whole`.
void HierarchicalCollectives::run_inside(Call& inside, const Call& whole) {
  inside.bounds = bounds_.data();
  inside.bound_count = static_cast<int>(bounds_.size());
  set_blocks(inside.record, inside.bounds, local_ranks());
  set_name(inside.record, whole.record.name.data());
  host_.run(inside);
}

// This rank's block of a partial sum of the host. The last goes to the call's y, which may be an
// input: no other rank reads that block of it, and no later sum needs it.
void HierarchicalCollectives::reduce_inside(const Call& call, const Plan& plan, int partial,
                                            Slice piece, std::byte* y) {
  Call inside;
  inside.record.kind = CallKind::reduce_scatter_tree;
  inside.record.dtype = call.record.dtype;
  inside.record.op = call.record.op == ReduceOp::mean ? ReduceOp::sum : call.record.op;
  inside.input_elements = inside.longest = static_cast<std::int64_t>(piece.size());
  inside.tree = &plan.inside[at(partial)];
  for (const int i : plan.inputs[at(partial)]) {
    inside.inputs[at(inside.input_count++)] =
        call.inputs[at(i)] + piece.begin * call.element_size();
  }
  inside.outputs[at(inside.output_count++)] = y;
  run_inside(inside, call);
}

// Every rank's block to all ranks of the host.
void HierarchicalCollectives::share(const Call& call, Slice piece) {
  set_bounds(call, piece);
  const std::size_t size = call.element_size();
  Call inside;
  inside.record.kind = CallKind::all_gather;
  inside.record.dtype = call.record.dtype;
  inside.input_elements = static_cast<std::int64_t>(block().size());
  for (int r = 0; r < local_ranks(); ++r) {
    inside.longest = std::max(inside.longest, bounds_[at(r) + 1] - bounds_[at(r)]);
  }
  std::byte* y = call.output() + piece.begin * size;
  inside.inputs[at(inside.input_count++)] = y + block().begin * size;
  inside.outputs[at(inside.output_count++)] = y;
  run_inside(inside, call);
}

}  // namespace peal
