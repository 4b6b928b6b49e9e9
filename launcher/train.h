// A training run from its first line to its last.
#pragma once

#include <functional>

#include "comm/communicator.h"
#include "core/config/job.pb.h"
#include "launcher/timeline.h"
#include "launcher/trainer_hooks.h"

namespace peal {

struct TrainOptions {
  bool fresh = false;     // forget what the run directory holds
  bool terminal = false;  // standard output is one
  std::string binding;    // what this rank keeps to, for its log
  std::string timeline;   // file to write; empty: none
  TimelineSteps timeline_steps = {};
  TrainerHooks hooks = {};  // for tests
};

// Runs `work` on every rank; when it threw Error on any of them, every rank throws. What only some
// ranks can see (a missing file, a full disk) so ends all of them alike.
void together(Communicator& comm, const std::function<void()>& work);

// Trains the job on the ranks of `comm`, from the newest checkpoint of its run directory if there
// is one. Collective. Throws Error; what was saved stays good.
void train(JobSpec job, Communicator& comm, const TrainOptions& options);

}  // namespace peal
