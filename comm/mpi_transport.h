// Collectives over MPI point-to-point messages, for ranks that share no memory.
#pragma once

#include <memory>

#include "comm/transport.h"

namespace peal {

// Collective over MPI_COMM_WORLD.
std::unique_ptr<Transport> make_mpi_transport(const Watch& watch);

}  // namespace peal
