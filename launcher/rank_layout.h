// Which ranks share a host and its processors, and which hosts are one machine.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/cost_model.h"
#include "launcher/cpu_limits.h"

namespace peal {

struct RankLayout {
  std::vector<int> hosts;     // by rank: number of its host, in the order of first ranks
  std::vector<int> machines;  // by rank: hosts of one kernel, such as containers, share its cores
  Spread spread;
};

// How many processors this rank has for itself: of those that it may use, one that n ranks of its
// host may use counts 1/n; at least 1, and no more than its share of what the control group allows
// and Slurm gave.
// Collective.
int cpus_of_rank(Communicator& comm);
// `allowed`: of the ranks of a host; `limit`: of all of them together, 0 for none.
int share_of_cpus(std::span<const CpuSet> allowed, std::size_t rank, double limit);

// By rank. Collective.
std::vector<std::string> host_names(Communicator& comm);

// Hosts are told apart by their names, machines by what their kernel drew at its start. Collective.
RankLayout find_hosts(Communicator& comm);

}  // namespace peal
