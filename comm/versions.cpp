#include "comm/versions.h"

#include "comm/mpi_peer.h"
#include "comm/sources_hash.h"
#include "core/base/text.h"

namespace peal {

std::string comm_build() {
  return cat(PEAL_VERSION, " (sources ", kCommSourcesHash, ", compiler ", __VERSION__, ")");
}

std::vector<Fact> library_versions() {
  return {{"Peal's comm layer", comm_build()}, {"the MPI library", MpiPeer::library()}};
}

}  // namespace peal
