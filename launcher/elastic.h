// `peal launch --elastic`: a supervisor beside the ranks. It notices a rank, a host or a link that
// fails, ends what is left, and starts again with the hosts that remain, from the newest state;
// hosts that come back or are added are taken in when the ranks have stopped at the end of a step.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "launcher/restart_policy.h"
#include "launcher/start_ranks.h"

namespace peal {

struct ElasticOptions {
  std::string range;         // "MIN:MAX" ranks
  int max_restarts = 10;     // in a row without a new step
  double wait = 300;         // seconds for at least MIN ranks
  double host_deadline = 5;  // seconds after which a silent host is out of reach
  double forgive = 600;      // seconds after which a host's earlier fault does not count
  double settle = 10;        // seconds that ranks run at least before more hosts are taken in
  double max_slowdown = 3;   // a straggler slower than this is left out; 0: only named
};

struct ElasticRun {
  ElasticOptions options;
  RankPlan plan;                        // hosts: at first; empty: this one
  std::filesystem::path hostfile;       // read again when it changes
  int slots = 1;                        // of a host there that does not say
  bool allocation = false;              // hosts are Slurm's, which is asked again
  std::filesystem::path run_directory;  // absolute; this host sees it, too
  int virtual_ranks = 0;                // of the job; 0: as many as ranks at the first start
  bool fresh = false;
  // The command of a rank. `fresh` as above at the first start, false later.
  std::function<std::vector<std::string>(bool fresh, int virtual_ranks)> train;
};

// The command of the first start if all hosts answer.
std::vector<std::string> first_command(const ElasticRun& run);

// Returns the exit code: 0 finished or stopped, that of the ranks where another start would not
// help (2, 4), 3 when the budget is spent or too few hosts answer. Every decision is a line on
// standard error.
int launch_elastic(const ElasticRun& run);

}  // namespace peal
