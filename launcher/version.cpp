#include "launcher/version.h"

#include "core/base/text.h"
#include "core/kernels/kernels.h"
#include "launcher/sources_hash.h"

namespace peal {

std::string build() {
  return cat(PEAL_VERSION, " (sources ", kSourcesHash, ", compiler ", __VERSION__, ")");
}

std::string version() {
  return cat(build(), ", oneDNN ", onednn_version());
}

}  // namespace peal
