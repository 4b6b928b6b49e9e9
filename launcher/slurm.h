// Slurm's commands: sbatch, and squeue and scontrol to ask about a job.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launcher/hosts.h"

namespace peal {

// The job of whose allocation this process is a part; empty: of none.
std::string slurm_job_id();

// The hosts that this allocation has now, each with `slots`. Throws Error(peer) where Slurm does
// not tell.
std::vector<HostSlots> allocated_hosts(int slots);

// Submits a script; returns the number of the job. Throws Error(input) with what sbatch says, or
// Error(peer) when Slurm does not answer.
std::string submit(const std::filesystem::path& script);

struct SlurmJob {
  std::string state;  // "PENDING", "RUNNING", "COMPLETED", ...
  std::string reason, nodes;
  int exit_code = 0, signal = 0;
  int restarts = 0;
};

// Reads the line that `scontrol --oneliner show job` prints.
SlurmJob parse_job_line(const std::string& line);

// Whether a job in this state will not run again.
bool has_ended(const SlurmJob& job);

// Prints what is new in `log` and how the job fares, until it ends, on standard output and error.
// Returns the exit code of the job; 3 where Slurm ended it. Throws Error(peer) when Slurm has not
// answered for a minute.
int follow(const std::string& id, const std::filesystem::path& log);

}  // namespace peal
