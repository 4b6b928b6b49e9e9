#include "comm/versions.h"

#include "comm/mpi_peer.h"
#include "comm/nccl/built_version.h"
#include "comm/sources_hash.h"
#include "core/base/text.h"
#include "core/device/device.h"

namespace peal {

std::string comm_build() {
  return cat(PEAL_VERSION, " (sources ", kCommSourcesHash, ", compiler ", __VERSION__, ")");
}

std::vector<Fact> library_versions() {
  return {{"Peal's comm layer", comm_build()},
          {"the MPI library", MpiPeer::library()},
          {"CUDA", cuda_version()},
          {"NCCL", nccl_built_version()}};
}

}  // namespace peal
