#include "launcher/measure_overlap.h"

#include "comm/tree.h"
#include "launcher/bench.h"

namespace peal {
namespace {

// What this rank computes in a step, as a job of one rank.
JobSpec own_share(JobSpec job, const Communicator& comm, int lanes) {
  const int all = job.parallel().virtual_ranks();
  const TreeNode block = block_of(all, comm.world_size(), comm.rank());
  const int mine = block.end - block.begin;
  job.mutable_parallel()->set_virtual_ranks(mine);
  job.mutable_parallel()->set_threads(lanes);
  job.mutable_train()->set_global_batch(job.train().global_batch() / all * mine);
  return job;
}

}  // namespace

double OverlapTimes::median(OverlapMode mode) {
  return quantile(of(mode), 0.5);
}

OverlapBench::OverlapBench(const JobSpec& job, Communicator& comm, const TrainingData& data)
    : comm_(comm),
      trainer_(job, comm, data),
      alone_(own_share(job, comm, trainer_.lanes()), *single_, data) {
  if (comm.rank() == 0) trainer_.initialize_weights();
  trainer_.start(/*first_step=*/0);
  alone_.initialize_weights();
  alone_.start(/*first_step=*/0);
  alone_.record_ready(&ready_);
}

double OverlapBench::measure(OverlapMode mode, std::int64_t steps) {
  const bool alone = mode == OverlapMode::compute;
  if (!alone) trainer_.set_overlap(mode == OverlapMode::overlapped);
  Trainer& trainer = alone ? alone_ : trainer_;
  std::int64_t& next = alone ? next_alone_ : next_;
  meet();
  const double start = seconds_now();
  for (std::int64_t i = 0; i < steps; ++i) {
    const double begin = seconds_now();
    trainer.step(next++, /*stop_asked=*/false, /*want_norm=*/false);
    trainer.finish();
    if (alone) last_alone_ = seconds_now() - begin;
  }
  meet();
  return (seconds_now() - start) / static_cast<double>(steps);
}

void OverlapBench::meet() {
  Stream s;
  comm_.wait(s, comm_.barrier(s, "round"));
}

}  // namespace peal
