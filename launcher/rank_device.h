// On what a rank computes, and how the ranks' gradients meet there.
#pragma once

#include <memory>

#include "comm/communicator.h"
#include "core/config/job.pb.h"

namespace peal {

// The device that this rank has by its number on its host; ranks share GPUs when there are fewer.
// Error(input), the same on every rank, when one of them has none, or when the job wants what is
// done on the CPU only. Collective.
Device device_of_rank(const JobSpec& job, Communicator& comm);

// A communicator for gradients on `device`; nullptr on the CPU, where `host` does it. Collective.
std::unique_ptr<Communicator> make_gradient_communicator(const JobSpec& job, Communicator& host,
                                                         const Device& device);

}  // namespace peal
