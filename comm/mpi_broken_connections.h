// What becomes of this process when a TCP connection of Open MPI breaks.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstdint>
#include <optional>

namespace peal {

// An address of IPv6, or ::ffff:a.b.c.d for one of IPv4.
using NetAddress = std::array<std::uint8_t, 16>;

// Nothing for other families.
std::optional<NetAddress> net_address(const sockaddr& address);

// Open MPI 4.1 ends the process with exit code 255, and tells its launcher to end the job, when a
// connection breaks on which a message is under way (ompi/mca/pml/ob1/pml_ob1_sendreq.c calls
// ompi_rte_abort; no error handler of a communicator is asked). So the death of one rank takes
// those that were sending to it, before any can say who was lost. After this call Open MPI's TCP
// module takes a broken connection for one on which nothing moves: messages with all other ranks go
// on, and the waits of this layer, which have deadlines, name the rank that is silent.
//
// It works whoever starts the program (mpirun, srun) and whoever called MPI_Init, on all
// communicators of the process: a host program's own MPI_Send to a lost rank, too, then waits until
// Peal's deadline or its launcher ends it. Where that module is not loaded (other networks, Open
// MPI as a single library) nothing is changed. May be called again; beside threads that use MPI.
void wait_on_broken_connections();

// Where the i-th connection that broke since then led to, as far as it is known: most often because
// the process there has ended. Null: fewer have. The first kMostBroken are kept. Any thread.
inline constexpr int kMostBroken = 64;
const NetAddress* broken_connection(int i);

}  // namespace peal
