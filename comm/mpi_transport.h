// Collectives over MPI point-to-point messages, for ranks that share no memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/hierarchical.h"
#include "comm/mpi_channel.h"
#include "comm/transport.h"
#include "comm/way_chooser.h"

namespace peal {

// `ranks`: of the channel, by rank of this communicator; `group`: 0, or the id of a Group.
std::unique_ptr<Transport> make_mpi_transport(const Watch& watch,
                                              std::shared_ptr<const MpiChannel> channel,
                                              std::vector<int> ranks, std::int64_t group,
                                              HostShare share, WayChooser ways);

}  // namespace peal
