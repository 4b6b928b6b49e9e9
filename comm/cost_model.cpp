#include "comm/cost_model.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "comm/reduce_pipeline.h"
#include "comm/shared.h"
#include "core/base/text.h"

namespace peal {
namespace {

enum Value { meeting, copied, added, step, message, sent };

int log2_up(int n) {
  return std::bit_width(static_cast<unsigned>(n - 1));
}

// How many ranks of a host send beyond it where ranks compare their calls at this distance.
double crossing(int distance, const Spread& spread) {
  const bool pairs = std::has_single_bit(static_cast<unsigned>(spread.ranks));
  if (pairs) return distance < spread.of_host ? 0 : spread.of_host;
  return std::min(distance, spread.of_host);
}

double pieces(double bytes, int slices, int peers) {
  return std::ceil(bytes / (slices * static_cast<double>(ReducePipeline::piece_bytes(peers))));
}

}  // namespace

std::optional<Way> way_of(std::string_view name) {
  const auto found = std::find(kWayNames.begin(), kWayNames.end(), name);
  if (found == kWayNames.end()) return std::nullopt;
  return static_cast<Way>(found - kWayNames.begin());
}

std::string names_of_ways() {
  return join({kWayNames.begin(), kWayNames.end()});
}

double CostModel::factor(Way way, double bytes) const {
  const Factors& of_way = factors[static_cast<std::size_t>(way)];
  const double place = std::clamp(std::log2(bytes / kFirstSize), 0.0, kSizes - 1.0);
  const auto below = std::min(static_cast<std::size_t>(place), kSizes - 2);
  const double part = place - static_cast<double>(below);
  return (1 - part) * of_way[below] + part * of_way[below + 1];
}

CostModel::Values counts(Way way, const Load& load, const Spread& spread) {
  CostModel::Values c{};
  const double n = spread.ranks, h = spread.hosts, l = spread.of_host, p = load.inputs;
  const double N = load.bytes;
  const bool over_messages = way != Way::mail && way != Way::slices;
  if (over_messages) c[step] = c[message] = log2_up(spread.ranks);  // ranks compare their calls
  switch (way) {
    case Way::mail:
      c[meeting] = 1;
      c[copied] = p * N;
      c[added] = n * p * N;
      break;
    case Way::slices:
      c[meeting] = 2;
      c[copied] = N;
      c[added] = p * N;
      break;
    case Way::small:
      for (int d = 1; d < spread.ranks; d *= 2) {
        c[sent] += crossing(d, spread) * std::min<double>(d, n - d) * p * N;
      }
      c[added] = n * p * N;
      break;
    case Way::doubling:
      for (int d = 1; d < spread.ranks; d *= 2) {
        c[sent] += crossing(d, spread) * N;
        c[added] += 2 * N;
      }
      break;
    case Way::ring:
      c[step] += 2 * (n - 1);
      c[message] += 2 * (n - 1);
      c[sent] = 2 * (n - 1) / n * N;
      c[added] = N;
      break;
    case Way::direct:
      c[step] += 2;
      c[message] += 2 * (n - 1);
      c[sent] = l * (p + 1) * (n - l) / n * N;
      c[added] = p * N;
      break;
    case Way::hosts_ring:
    case Way::hosts_direct: {
      const bool ring = way == Way::hosts_ring;
      const double at_once = std::min(pieces(N, spread.rails, spread.hosts),
                                      static_cast<double>(ReducePipeline::kPieces));
      c[meeting] = 2 * (p + 1) * at_once;
      c[copied] = 2 * N;
      c[added] = p * N;
      c[step] += ring ? 2 * (h - 1) : 2;
      c[message] += 2 * (h - 1);
      c[sent] = (ring ? 2 : p + 1) * (h - 1) / h * N;
      c[added] += (ring ? 1 : p) * N / spread.rails;
      break;
    }
  }
  return c;
}

double seconds(const CostModel& model, Way way, const Load& load, const Spread& spread) {
  const CostModel::Values each = model.values(), often = counts(way, load, spread);
  double sum = 0;
  for (std::size_t i = 0; i < each.size(); ++i) sum += each[i] * often[i];
  return sum * model.factor(way, load.bytes);
}

// Sizes in steps of half an octave; where the way changes between two, the byte is sought.
Switches::Switches(const CostModel& model, const std::vector<Candidate>& ways, int inputs,
                   const Spread& spread, std::optional<Way> only) {
  const auto quickest = [&](std::uint64_t bytes) {
    const Load load{static_cast<double>(bytes), inputs};
    std::optional<Way> best;
    double least = 0;
    for (const Candidate& candidate : ways) {
      if (bytes > candidate.most) continue;
      if (candidate.way == only) return candidate.way;
      const double takes = seconds(model, candidate.way, load, spread);
      if (best && takes >= least) continue;
      best = candidate.way;
      least = takes;
    }
    return *best;
  };
  entries_.push_back({0, quickest(1)});
  std::uint64_t before = 1;
  for (int half = 1; half <= 2 * 40; ++half) {
    const auto bytes = static_cast<std::uint64_t>(std::exp2(half / 2.0));
    while (quickest(bytes) != entries_.back().way) {
      std::uint64_t stays = before, changes = bytes;
      while (changes - stays > 1) {
        const std::uint64_t middle = stays + (changes - stays) / 2;
        (quickest(middle) == entries_.back().way ? stays : changes) = middle;
      }
      entries_.push_back({changes, quickest(changes)});
      before = changes;
    }
    before = bytes;
  }
}

std::size_t most_mail_bytes(const CostModel& model, int ranks, std::optional<Way> only) {
  const Spread one_host{ranks, 1, ranks, ranks};
  const Switches switches(model, {{Way::mail, Mail::kPayload}, {Way::slices}}, /*inputs=*/1,
                          one_host, only);
  const auto& entries = switches.entries();
  if (entries[0].way != Way::mail) return 0;
  return entries.size() > 1 ? entries[1].from - 1 : Mail::kPayload;
}

}  // namespace peal
