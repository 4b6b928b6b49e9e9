// What the communicators of a process that use MPI messages have in common.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "comm/mpi_broken_connections.h"
#include "comm/mpi_comm.h"

namespace peal {

// Throws MPI's own text of an error as Error(peer) of `what`.
void check_mpi(int status, std::string_view what);

// What each rank brings, in rank order. Collective.
std::vector<std::string> gather_texts(MPI_Comm ranks, std::string_view mine, std::string_view what);

// The two MPI communicators, for data and for notices, that a communicator and all groups split
// from it share: a group tells its messages from others by their tags. So making and freeing a
// group costs no MPI call.
struct MpiChannel {
  // Collective over `ranks`. Never freed: that is collective, and a peer may be gone.
  explicit MpiChannel(MPI_Comm ranks);

  // Which of `among`, ranks of the channel, has ended without a word, as a broken connection tells:
  // only where the channel has all ranks of the job, and only of one that has a host of its own,
  // whose address says who it was. The processes of a host look after each other. -1: none is
  // known.
  int gone(const std::vector<int>& among) const;

  MPI_Comm data = MPI_COMM_NULL, control = MPI_COMM_NULL;
  int highest_tag = 0;

 private:
  std::vector<std::pair<NetAddress, int>> alone_;  // addresses that only one rank has, sorted
};

}  // namespace peal
