// Collectives over MPI point-to-point messages, for ranks that share no memory.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/hierarchical.h"
#include "comm/mpi_comm.h"
#include "comm/transport.h"
#include "comm/way_chooser.h"

namespace peal {

// The two MPI communicators, for data and for notices, that a communicator and all groups split
// from it share: a group tells its messages from others by their tags. So making and freeing a
// group costs no MPI call.
struct MpiChannel {
  // Collective over `ranks`.
  explicit MpiChannel(MPI_Comm ranks);
  MPI_Comm data = MPI_COMM_NULL, control = MPI_COMM_NULL;
  int highest_tag = 0;
};

// `ranks`: of the channel, by rank of this communicator; `group`: 0, or the id of a Group.
std::unique_ptr<Transport> make_mpi_transport(const Watch& watch,
                                              std::shared_ptr<const MpiChannel> channel,
                                              std::vector<int> ranks, std::int64_t group,
                                              HostShare share, WayChooser ways);

}  // namespace peal
