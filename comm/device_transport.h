// The communicator over a DeviceEngine: what it adds to the calls themselves is that ranks compare
// them, that a peer which fails is noticed and a call which does not end is, and that all ranks
// hear why. All of that goes over communicators of host memory.
#pragma once

#include <string>

#include "comm/device_comm.h"
#include "comm/device_engine.h"

namespace peal {

// Collective over `host`. What make_nccl_communicator does with NCCL as the engine.
std::unique_ptr<Communicator> make_engine_communicator(Communicator& host, const Device& device,
                                                       const std::string& backend,
                                                       const NcclOptions& options,
                                                       const MakeEngine& make_engine);

}  // namespace peal
