#pragma once

#include <string>

namespace peal {

// "2.28.3", or "built without NCCL". Of the header, so that asking loads no library: what is loaded
// is compared by make_nccl_communicator.
std::string nccl_built_version();

}  // namespace peal
