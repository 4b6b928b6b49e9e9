// Which way the all-reduces of a communicator over messages go.
#pragma once

#include <array>
#include <map>
#include <optional>

#include "comm/call.h"
#include "comm/cost_model.h"

namespace peal {

class WayChooser {
 public:
  struct Hosts {
    Spread spread;
    bool share_memory = false;  // ranks of a host can reduce inside it
    bool in_order = true;       // every host has a contiguous block of ranks
  };
  // The same on all ranks that were given the same. `only`, for measurements: wherever it can be.
  WayChooser(const CostModel& model, const Hosts& hosts, std::optional<Way> only);

  // Calls that reduce nothing, or not to all ranks, have one way: direct. Ways are compared when
  // the first call of a kind and number of inputs comes.
  Way way(const Call& call);

 private:
  enum class Kind { any, any_flat, half, half_flat, ordered, tree };
  static constexpr std::size_t kKinds = 6;

  Way ring_way(const Call& call) const;
  std::vector<Switches::Candidate> candidates(Kind kind, int inputs) const;

  CostModel model_;
  Hosts hosts_;
  std::optional<Way> only_;
  std::array<std::map<int, Switches>, kKinds> switches_;  // by inputs; only ever grow
};

}  // namespace peal
