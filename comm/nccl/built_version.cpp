#include "comm/nccl/built_version.h"

#include <nccl.h>

#include "core/base/text.h"

namespace peal {

std::string nccl_built_version() {
  return cat(NCCL_MAJOR, ".", NCCL_MINOR, ".", NCCL_PATCH);
}

}  // namespace peal
