// `peal bench collectives --tune`: measures the ways of an all-reduce, fits the cost model, stores
// it.
#pragma once

#include <cstdint>
#include <string>

#include "comm/communicator.h"

namespace peal {

// Collective over all MPI ranks of the job, of which `comm` has at least two. `file`: where to;
// empty: $PEAL_TUNE, or the default place. What was fitted before of the other kind of link is
// kept. `iterations`: of each call measured; 0: as many as fit a fixed time.
void tune_collectives(const std::string& file, std::int64_t iterations, Communicator& comm);

}  // namespace peal
