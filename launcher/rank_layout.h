// Which ranks share a host, and which hosts are one machine.
#pragma once

#include <vector>

#include "comm/communicator.h"
#include "comm/cost_model.h"

namespace peal {

struct RankLayout {
  std::vector<int> hosts;     // by rank: number of its host, in the order of first ranks
  std::vector<int> machines;  // by rank: hosts of one kernel, such as containers, share its cores
  Spread spread;
};

// Hosts are told apart by their names, machines by what their kernel drew at its start. Collective.
RankLayout find_hosts(Communicator& comm);

}  // namespace peal
