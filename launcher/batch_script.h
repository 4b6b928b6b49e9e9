// The script with which Slurm runs a job.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "launcher/start_ranks.h"

namespace peal {

struct BatchJob {
  RankPlan plan;  // of srun; environment: NAME=VALUE only
  int nodes = 1, ranks_per_node = 1;
  int gpus_per_node = 0;
  std::string name;
  std::string partition, time, account, array;  // as sbatch takes them; empty: not said
  std::vector<std::string> sbatch;              // further options of sbatch, "--qos=low"
  bool requeue = false;
  int stop_before = 0;  // seconds before the time limit at which the run is to stop
  bool fresh = false;   // at the first start
  std::filesystem::path folder, run_directory, job_file;  // all absolute
  std::vector<std::string> set;  // for arrays: overrides in which %a is the number of the task
};

// The job's own file for the output of job `id`.
std::filesystem::path batch_log(const BatchJob& job, const std::string& id);

std::string batch_script(const BatchJob& job);

}  // namespace peal
