// Where the hosts of an elastic run are named, and named anew while it runs.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/hosts.h"

namespace peal {

class HostSource {
 public:
  virtual ~HostSource() = default;
  // For messages: "hosts", the name of a file, or "job 17 of Slurm".
  virtual std::string name() const = 0;
  // The hosts as they are named now, where that has changed since the last call, or since the
  // start. Does not wait. Throws Error where they cannot be told; the same error once.
  virtual std::optional<std::vector<HostSlots>> newer() = 0;
};

// A file that may change; `slots`: of a host there that does not say. Throws where it cannot be
// read.
std::unique_ptr<HostSource> make_hostfile_source(const std::filesystem::path& file, int slots);

// This allocation of Slurm, which grows (scontrol update) and, with --no-kill, loses hosts: Slurm
// is asked every two seconds, on a thread of its own. `hosts`: as they are now.
std::unique_ptr<HostSource> make_allocation_source(std::vector<HostSlots> hosts);

}  // namespace peal
