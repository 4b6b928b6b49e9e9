// What a run is doing, for others to read: status.json in its directory. Written by rank 0.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "launcher/progress.h"

namespace peal {

// A rank that takes longer for its part of a step than the others.
struct SlowRank {
  int rank = -1;  // -1: none
  std::string host;
  double factor = 0;  // of the others' median
};

struct RunStatus {
  std::string state = "running";  // running, stopped (asked to), finished, failed, waiting (for
                                  // hosts, to start again); read_status: dead
  std::string error;              // of a failed run
  int exit_code = 0;
  std::int64_t step = 0, steps = 0, epoch = 0, epochs = 0;
  double loss = -1, samples_per_second = -1, seconds_left = -1;  // -1: none yet
  int ranks = 0;
  std::vector<std::string> hosts;  // in the order of ranks, each once
  int restarts = 0;                // starts before this one, since --fresh
  std::string slurm_job;           // empty: not under Slurm
  // Under peal launch --elastic.
  std::vector<std::string> left_out;    // hosts, each with the reason
  std::int64_t memory_every = 0;        // steps between two states in memory; 0: none
  std::int64_t first_step = 0;          // after which this start went on
  std::int64_t done_again = 0;          // steps that an earlier start had finished
  std::vector<double> compute_seconds;  // by rank: forward and backward of a virtual rank, or empty
  SlowRank straggler;
  double started = 0, updated = 0;  // seconds since 1970
};

class StatusFile {
 public:
  // Writes the status `first`, with one restart more than the earlier one that the directory holds.
  // Throws Error(input) when it cannot be written. Later on that is no reason to end a run.
  StatusFile(const std::filesystem::path& run_directory, RunStatus first);

  // At most one write a second, but for the first step.
  void step(const ProgressLine& line);
  // Of all ranks; written at once when another rank has become the straggler, or none is.
  void times(const std::vector<double>& compute_seconds, const SlowRank& straggler);
  void memory_every(std::int64_t steps) { status_.memory_every = steps; }
  void end(const std::string& state);
  // Not where another start writes by now: this rank was out of reach.
  void fail(const std::string& error, int exit_code);

 private:
  bool write();

  std::filesystem::path path_;
  RunStatus status_;
  bool stepped_ = false;
  std::chrono::steady_clock::time_point written_{};
};

// Throws Error(input) when the directory holds no status or a damaged one. A run that says that it
// is running but holds its directory no longer is dead.
RunStatus read_status(const std::filesystem::path& run_directory);
// The text of status.json as it stands there; `where` is its name.
RunStatus parse_status(const std::string& text, const std::string& where);
std::string status_json(const RunStatus& status);
// While no run writes it: false when it cannot be written.
bool write_status(const std::filesystem::path& run_directory, const RunStatus& status);

}  // namespace peal
