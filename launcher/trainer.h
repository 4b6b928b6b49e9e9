// One rank's model, memory and training step.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "comm/buckets.h"
#include "core/config/job.pb.h"
#include "core/data/loader.h"
#include "core/graph/plan.h"
#include "core/optim/optimizer.h"
#include "core/state/checkpoint.h"
#include "core/state/memory_state.h"
#include "launcher/batch_feed.h"
#include "launcher/compression_state.h"
#include "launcher/evaluation.h"
#include "launcher/gradient_tree.h"
#include "launcher/lanes.h"
#include "launcher/mirror.h"
#include "launcher/open_records.h"
#include "launcher/optimizer_shards.h"
#include "launcher/step_control.h"
#include "launcher/timeline.h"
#include "launcher/trainer_hooks.h"
#include "models/model.h"

namespace peal {

struct TrainingData {
  std::shared_ptr<const Dataset> train, test;  // test may be absent
  std::shared_ptr<const Preprocess> preprocess;
};

// Opens and checks the job's records, fetched before where they are not here. Collective.
TrainingData open_data(const JobSpec& job, const ModelInfo& model, Communicator& comm,
                       const Say& say = {});
// The model can be trained as the job wants; throws Error(input).
void check_model(const JobSpec& job);

// Bytes a rank holds; printed before step 1.
struct MemoryTable {
  std::size_t parameters = 0, gradients = 0, optimizer = 0, activations = 0, scratch = 0;
  std::size_t whole_optimizer = 0;  // what `optimizer` would be if it were not sharded
  int slices = 1;                   // of it
  std::size_t saved = 0;            // more that activations were without train.recompute
  std::size_t total() const { return parameters + gradients + optimizer + activations + scratch; }
};

std::string to_text(const MemoryTable& memory);  // "parameters 1.0 MiB, gradients ..."

// Where the time of steps went, in seconds, as lane 0 saw it.
struct StepTimes {
  double data = 0, forward = 0, backward = 0, comm = 0, optimizer = 0;
};

// In backward of a step: so many bytes from the start of the gradient arena became final.
struct ReadyTime {
  std::size_t bytes = 0;
  double seconds = 0;  // since the step began
};

struct StepResult {
  std::int64_t step = 0;      // counts from 0
  double loss = 0;            // mean over the step's records
  double accuracy = -1;       // -1: the model has none
  double gradient_norm = -1;  // -1: not computed, or not finite
  double loss_scale = -1;     // after this step; -1: there is none
  double learning_rate = 0;
  std::int64_t records = 0;
  bool stop = false;  // some rank asked for the end after this step
};

class Trainer {
 public:
  // Collective: every rank makes it with the same job, whose virtual_ranks is resolved. `comm` is
  // of host memory; where the job computes on GPUs, one for gradients there is made over it.
  Trainer(const JobSpec& job, Communicator& comm, TrainingData data,
          const TrainerHooks& hooks = {});
  ~Trainer();

  // On rank 0, one of these before start(); nothing is communicated, and what is loaded stays until
  // then. The first values are those of model.weights, if the job names it.
  void initialize_weights();
  void load(const Checkpoint& checkpoint);
  void load(const MemoryState& state);
  // Every rank gets rank 0's bits, and batches are prepared from `first_step` on, when the first
  // records are here. Collective.
  void start(std::int64_t first_step, const Say& say = {});

  // One step of the job; `step` counts from 0. Every rank returns the same result: of this step on
  // the CPU; on a GPU, whose work the host only enqueues, of the step before, which it reads while
  // this one runs (nothing from the first). Throws Error(numeric) on every rank when a loss is not
  // finite: weights and optimizer states stay as they were before its step, also in the step that a
  // GPU was given since. `want_norm` asks for the gradient norm where clipping does not need it
  // anyway.
  std::optional<StepResult> step(std::int64_t step, bool stop_asked, bool want_norm);
  // The result that step() has not returned yet, if there is one; waits for its step and throws as
  // step() does. To be called before anybody looks at the weights.
  std::optional<StepResult> finish();

  // Mean loss and accuracy over the test records; the same on every rank and for every number of
  // ranks. Collective.
  std::map<std::string, double> evaluate();

  std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
  std::int64_t total_steps() const { return total_steps_; }
  const ParameterTable& table() const { return table_; }
  // In host memory that stays where it is. What a GPU has, and what compression has to keep (which
  // is on rank 0 only), is as it was at the last collect_state(). A sharded optimizer's state has
  // no memory here: collect_state() puts it into the room it is given.
  std::vector<NamedTensor> weights() const;  // parameters and states
  std::vector<NamedTensor> parameters() const;
  std::vector<NamedTensor> optimizer_state() const;
  std::vector<NamedTensor> compression_state();
  // `room`: tensors in the order of optimizer_state(); empty: nobody wants them. Collective.
  void collect_state(const std::vector<NamedTensor>& room = {});
  void read_back();  // what a GPU has
  // Of the last step, after the reduction; sharded: of use on rank 0, after collect_gradients().
  std::vector<NamedTensor> gradients();
  void collect_gradients();  // collective
  const Device& device() const { return device_; }
  // "host", "nccl" or "staged": what sums the gradients.
  std::string_view gradient_backend() const { return gradient_comm().backend(); }
  // Ranks have parts of it, which collect_state() brings to rank 0.
  bool state_is_in_parts() const { return compression_ != nullptr || shards_ != nullptr; }
  MemoryTable memory() const;
  StepTimes& times() { return times_; }
  // Steps are recorded in `timeline` while that is recording; nullptr: in none.
  void set_timeline(Timeline* timeline) { timeline_ = timeline; }
  TimelineRoom timeline_room() const;
  // Whether buckets start during backward, as parallel.overlap says at first. On all ranks alike.
  void set_overlap(bool overlap) { sum_->set_overlap(overlap); }
  // From now on `into` tells of the newest step, as lane 0 saw it in its last backward pass.
  void record_ready(std::vector<ReadyTime>* into);
  int lanes() const { return sum_->lanes(); }
  // Virtual ranks that lane 0 computes, one after the other: times() is of them.
  int parts_in_a_row() const { return sum_->leaves(0).end - sum_->leaves(0).begin; }

 private:
  Communicator& gradient_comm() const { return device_comm_ ? *device_comm_ : comm_; }
  int lanes_wanted() const;
  void make_plans();
  void make_sum();
  void make_optimizer_states();
  void make_loader(std::int64_t first_step);
  void run_lane(int lane, std::int64_t step);
  void note_ready(std::size_t bytes_final);
  void set_stop(bool stop_asked);
  void take_slots(std::int64_t step);
  void take_norm();
  void check_loss(const StepValues& values) const;
  std::optional<StepResult> read(StepValues& values);
  void take_decisions(const StepValues& values, StepResult& result) const;
  void update(std::int64_t step, std::size_t begin, std::size_t end);
  void update_slice(std::int64_t step, ByteRange part, std::size_t state);
  void finish_sharing();
  void ask_for_next(std::int64_t step);
  void tell_device_comm(std::int64_t step);
  Tensor slice(std::byte* arena, std::size_t begin, std::size_t end) const;
  Tensor gradient_slice(std::size_t begin, std::size_t end) const;
  std::vector<NamedTensor> views(std::byte* arena, const std::string& prefix) const;
  Tensor loss_scaling() const;  // {scale, good}, on the host

  JobSpec job_;
  const TrainerHooks hooks_;
  Communicator& comm_;
  TrainingData data_;
  ModelInfo model_;
  Device device_;
  PlanOptions plan_options_;
  std::unique_ptr<Communicator> device_comm_;  // none on the CPU
  Stream stream_, host_;
  ParameterTable table_;
  TreeNode block_;  // virtual ranks of this rank
  Shape x_shape_;   // (B, record shape...) of one virtual rank's part, as the model sees it
  std::int64_t steps_per_epoch_ = 0, total_steps_ = 0;

  Mirror parameters_, states_;
  Buffer norm_blocks_, norm_order_, gradient_copy_;
  std::unique_ptr<StepControl> control_;
  Buffer scaling_;  // {scale, good} of the loss, as it was when the host last asked
  std::vector<Mirror> optimizer_states_;
  std::vector<Tensor> optimizer_slices_;  // reused by update()
  std::unique_ptr<Optimizer> optimizer_;
  Schedule schedule_;
  std::unique_ptr<GradientBuckets> buckets_;  // none where the sum needs none
  std::unique_ptr<GradientSum> sum_;
  std::unique_ptr<OptimizerShards> shards_;        // none where every rank has all state
  std::vector<NamedTensor> saved_optimizer_;       // rank 0, from load() to start(), if sharded
  std::unique_ptr<CompressionState> compression_;  // none where there is no state
  std::vector<NamedTensor> saved_compression_;     // rank 0, from load() to start()
  int first_leaf_ = 0;                             // virtual rank of the tree's leaf 0
  std::vector<Plan> plans_;                        // one a lane
  std::unique_ptr<Lanes> lanes_;
  std::unique_ptr<Loader> loader_;
  std::vector<std::unique_ptr<BatchFeed>> feeds_;  // one a lane
  std::unique_ptr<Evaluation> evaluation_;
  Buffer stop_flag_;
  bool stepped_ = false;
  StepTimes times_;
  Timeline* timeline_ = nullptr;
  std::vector<ReadyTime>* ready_times_ = nullptr;
  std::chrono::steady_clock::time_point step_start_;
};

}  // namespace peal
