#include "comm/way_chooser.h"

#include <bit>

#include "comm/combine.h"
#include "comm/small_reduce.h"

namespace peal {

WayChooser::WayChooser(const CostModel& model, const Hosts& hosts, std::optional<Way> only)
    : model_(model), hosts_(hosts), only_(only) {}

// Half types between hosts: their owner sums them up in f32; around a ring partial sums travel, and
// would be rounded at every step. Not so in a tree, whose every node is rounded.
Way WayChooser::way(const Call& call) {
  const bool tree = call.record.kind == CallKind::all_reduce_tree;
  if (!tree && call.record.kind != CallKind::all_reduce) return Way::direct;
  if (call.count() == 0) return Way::direct;
  const bool half = partial_is_f32(call.record.dtype);
  const bool ring = call.record.algorithm == Algorithm::ring;
  if (ring && !half) return ring_way(call);
  Kind kind = call.is_group() ? half ? Kind::half_flat : Kind::any_flat
              : half          ? Kind::half
                              : Kind::any;
  if (tree) kind = Kind::tree;
  if (!tree && !half && call.record.algorithm == Algorithm::ordered_tree) kind = Kind::ordered;
  const int inputs = tree ? call.tree->most : 1;
  auto& of_kind = switches_[static_cast<std::size_t>(kind)];
  auto found = of_kind.find(inputs);
  if (found == of_kind.end()) {
    const Switches switches(model_, candidates(kind, inputs), inputs, hosts_.spread, only_);
    found = of_kind.emplace(inputs, switches).first;
  }
  return found->second.way(call.count() * call.element_size());
}

// By fixed sizes: the ways of a ring differ in the order of additions, and who asks for one wants
// the same bits from run to run, whatever was measured between them.
Way WayChooser::ring_way(const Call& call) const {
  constexpr std::size_t kSmallestInside = std::size_t{16} << 10, kMostSmall = kSmallestInside;
  const std::size_t bytes = call.count() * call.element_size();
  if (bytes * static_cast<std::size_t>(hosts_.spread.ranks) <= kMostSmall) return Way::small;
  return hosts_.share_memory && bytes >= kSmallestInside ? Way::hosts_ring : Way::ring;
}

std::vector<Switches::Candidate> WayChooser::candidates(Kind kind, int inputs) const {
  std::vector<Switches::Candidate> ways;
  const int ranks = hosts_.spread.ranks;
  const bool flat = kind == Kind::any_flat || kind == Kind::half_flat;
  if (!flat) ways.push_back({Way::small, SmallReduce::most(ranks, inputs)});
  // On two ranks it is the same as small.
  const bool pairs = ranks > 2 && std::has_single_bit(static_cast<unsigned>(ranks));
  if (pairs && (kind == Kind::any || kind == Kind::ordered)) {
    ways.push_back({Way::doubling, SmallReduce::kMostDoubled});
  }
  ways.push_back({Way::direct});
  if (kind == Kind::any || kind == Kind::any_flat) ways.push_back({Way::ring});
  if (!hosts_.share_memory || flat || kind == Kind::half) return ways;
  if (hosts_.in_order) ways.push_back({Way::hosts_direct});
  if (kind == Kind::any) ways.push_back({Way::hosts_ring});
  return ways;
}

}  // namespace peal
