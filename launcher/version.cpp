#include "launcher/version.h"

#include "core/base/text.h"

namespace peal {

std::string version() {
  return cat(PEAL_VERSION, " (g++ ", __VERSION__, ")");
}

}  // namespace peal
