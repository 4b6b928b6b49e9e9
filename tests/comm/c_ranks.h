// The C API on ranks that are threads.
#pragma once

#include <functional>

#include "comm/peal.h"

namespace peal {

// Runs `body` on each; it ends with the first status that is not PEAL_OK.
inline peal_status on_ranks(int ranks, const std::function<peal_status(peal_comm*)>& body) {
  const auto call = [](peal_comm* comm, void* context) {
    return (*static_cast<const std::function<peal_status(peal_comm*)>*>(context))(comm);
  };
  return peal_run_local_ranks(ranks, call, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace peal
