// The folder of a run: job.textproto, metrics, events, logs/, checkpoints/. Rank 0 only.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

#include "core/config/job.pb.h"
#include "core/state/checkpoint.h"

namespace peal {

class RunDirectory {
 public:
  // Makes the folder if need be and takes its lock; a run that was just killed may hold it for a
  // moment, so it is asked for 20 s. Throws Error(input) when another run is at work in it.
  // `locked`: a supervisor has the lock for all its starts. A rank that hangs on a host out of
  // reach would keep it from the next.
  explicit RunDirectory(std::filesystem::path path, bool locked = false);
  ~RunDirectory();
  RunDirectory(const RunDirectory&) = delete;
  RunDirectory& operator=(const RunDirectory&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }

  // Removes what an earlier run left.
  void clear();
  // The newest good checkpoint. Damaged ones are named on standard error and passed over.
  std::optional<Checkpoint> newest() const;
  void write_job(const JobSpec& job) const;
  // What tells this run from all others, also from an earlier one in this folder. Made when there
  // is none; clear() forgets it.
  std::uint64_t number() const;
  // 0: none.
  static std::uint64_t number_in(const std::filesystem::path& path);

 private:
  std::filesystem::path path_;
  int lock_ = -1;
};

// Throws Error(input) when `checkpoint` belongs to a job whose result differs from `job`'s; names
// the first line that differs. An unset virtual_ranks of `job` is taken from the checkpoint first.
void adopt_checkpoint(const Checkpoint& checkpoint, JobSpec& job);

}  // namespace peal
