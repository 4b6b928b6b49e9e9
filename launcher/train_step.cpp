// The train step: read this first.
#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <utility>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/kernels/kernels.h"
#include "launcher/trainer.h"

namespace peal {
namespace {

// Adds the time of its scope to `seconds`.
class Timer {
 public:
  explicit Timer(double& seconds) : seconds_(seconds) {}
  ~Timer() {
    seconds_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  double& seconds_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

std::optional<StepResult> Trainer::step(std::int64_t step, bool stop_asked, bool want_norm) {
  set_stop(stop_asked);
  if (device_comm_) tell_device_comm(step);
  step_start_ = std::chrono::steady_clock::now();
  sum_->begin_step(step);
  lanes_->run([&](int lane) { run_lane(lane, step); });

  Timeline* const timeline = Timeline::active(timeline_);
  // The first bucket brings the loss of all ranks, so that a bad one is seen before any update.
  const bool need_norm = job_.train().clip_norm() > 0 || want_norm || control_->scaled();
  bool checked = false;
  double update_seconds = 0;
  {
    const Timer timer(times_.comm);
    int bucket = 0;
    std::uint64_t waits_since = timeline ? timeline->now() : 0;
    sum_->finish(stream_, [&](std::size_t begin, std::size_t end) {
      if (timeline) timeline->add(/*lane=*/0, "wait", waits_since, bucket);
      if (!checked && end >= table_.slots_end) {
        take_slots(step);
        checked = true;
      }
      if (!need_norm) {
        const Timer updating(update_seconds);
        const TimelineScope scope(timeline, /*lane=*/0, "optimizer", bucket);
        update(step, begin, end);
      }
      ++bucket;
      if (timeline) waits_since = timeline->now();
    });
  }
  times_.comm -= update_seconds;
  times_.optimizer += update_seconds;
  {
    const Timer timer(times_.optimizer);
    const TimelineScope scope(timeline, /*lane=*/0, "optimizer");
    if (need_norm) {
      take_norm();
      update(step, 0, table_.gradient_bytes);
    }
    plans_[0].apply_slots(stream_, sum_->total());
  }
  if (shards_) finish_sharing();
  control_->end(stream_);
  ask_for_next(step + 1);
  return read(control_->due());
}

std::optional<StepResult> Trainer::finish() {
  control_->newest().there.synchronize();
  return read(control_->newest());
}

// Forward and backward of this lane's virtual ranks, each alone and in order.
void Trainer::run_lane(int lane, std::int64_t step) {
  Plan& plan = plans_[static_cast<std::size_t>(lane)];
  StepTimes unused;
  StepTimes& times = lane == 0 ? times_ : unused;
  Timeline* const timeline = Timeline::active(timeline_);
  const float scale = 1.0f / static_cast<float>(Loader::records_in_step(
                                 data_.train->size(), job_.train().global_batch(), step));
  BatchFeed& feed = *feeds_[static_cast<std::size_t>(lane)];
  const TreeNode leaves = sum_->leaves(lane);
  const int parts = job_.train().accumulate_steps();
  for (int leaf = leaves.begin; leaf < leaves.end; ++leaf) {
    const int virtual_rank = first_leaf_ + leaf;
    for (int part = 0; part < parts; ++part) {
      {
        const Timer timer(times.data);
        const TimelineScope scope(timeline, lane, "data", virtual_rank);
        feed.feed(plan, stream_, {step, virtual_rank, part});
      }
      std::byte* gradients = sum_->target(lane, leaf, part);
      {
        const Timer timer(times.forward);
        const TimelineScope scope(timeline, lane, "forward", virtual_rank);
        const auto pass =
            static_cast<std::uint64_t>(virtual_rank) * static_cast<std::uint64_t>(parts) +
            static_cast<std::uint64_t>(part);
        plan.forward(stream_, {job_.train().seed(), static_cast<std::uint64_t>(step), pass},
                     gradients, scale);
      }
      {
        const Timer timer(times.backward);
        {
          const TimelineScope scope(timeline, lane, "backward", virtual_rank);
          plan.backward(stream_, gradients, [&](std::size_t bytes_final) {
            if (lane == 0 && ready_times_ != nullptr) note_ready(bytes_final);
            sum_->ready(stream_, lane, leaf, part, bytes_final);
          });
        }
        const TimelineScope scope(timeline, lane, "merge", virtual_rank);
        sum_->end_part(stream_, lane, leaf, part);
      }
      feed.done();
      const Timer timer(times.data);
      if (part + 1 < parts) {
        feed.ask({step, virtual_rank, part + 1});
      } else if (leaf + 1 < leaves.end) {
        feed.ask({step, virtual_rank + 1, 0});
      }
    }
  }
}

// Of each lane the first batch of `step`, when all of the step before is enqueued: so that waiting
// for records holds up none of it.
void Trainer::ask_for_next(std::int64_t step) {
  if (step >= total_steps_) return;
  const Timer timer(times_.data);
  for (int lane = 0; lane < lanes(); ++lane) {
    feeds_[static_cast<std::size_t>(lane)]->ask({step, first_leaf_ + sum_->leaves(lane).begin, 0});
  }
}

void Trainer::tell_device_comm(std::int64_t step) {
  device_comm_->set_step(step + 1);
  device_comm_->set_deadline(stepped_ ? job_.parallel().deadline_seconds()
                                      : job_.parallel().start_deadline_seconds());
  stepped_ = true;
}

void Trainer::note_ready(std::size_t bytes_final) {
  if (!ready_times_->empty() && bytes_final <= ready_times_->back().bytes) ready_times_->clear();
  const std::chrono::duration<double> since = std::chrono::steady_clock::now() - step_start_;
  ready_times_->push_back({bytes_final, since.count()});
}

void Trainer::set_stop(bool stop_asked) {
  const auto flag = static_cast<std::int64_t>(std::bit_cast<std::uint32_t>(stop_asked ? 1.0f : 0));
  kernels(device_).set_values(
      stream_, {&flag, 1},
      {.data = stop_flag_.data(), .shape = {1}, .dtype = DType::i64, .device = device_});
}

// The loss of all ranks is there. Where the host reads it at once, it lets no update begin after a
// bad one; else the device does.
void Trainer::take_slots(std::int64_t step) {
  control_->take_slots(stream_, step, sum_->total(), table_.slot("loss").offset);
  if (!control_->late()) check_loss(control_->newest());
}

void Trainer::check_loss(const StepValues& values) const {
  const float loss = values.slot(table_.slot("loss").offset);
  if (std::isfinite(loss)) return;
  throw Error(ErrorKind::numeric, cat("step ", values.step + 1),
              cat("the loss is ", loss,
                  "; weights are as they were before this step. A smaller "
                  "learning rate or train.clip_norm may help; the newest checkpoint is intact"));
}

// Steps the optimizer over [begin, end) of the arenas, slots left out; sharded: whole buckets, of
// each this rank's slice, whose parameters then go to all ranks while the next bucket is stepped.
void Trainer::update(std::int64_t step, std::size_t begin, std::size_t end) {
  begin = std::max(begin, table_.slots_end);
  if (begin >= end) return;
  if (!shards_) return update_slice(step, {begin, end}, begin);
  const BucketShards& all = shards_->shards();
  for (std::size_t b = all.bucket_at(begin); b < all.buckets() && all.bucket(b).end <= end; ++b) {
    update_slice(step, shards_->slice(b), shards_->place(b));
    shards_->share(stream_, b, parameters_.data());
  }
}

// `state`: where the slice begins in the arenas of states.
void Trainer::update_slice(std::int64_t step, ByteRange part, std::size_t state) {
  if (part.size() == 0) return;
  std::vector<Tensor>& states = optimizer_slices_;
  for (std::size_t i = 0; i < states.size(); ++i)
    states[i] = slice(optimizer_states_[i].data(), state, state + part.size());
  const double rate = optimizer_->learning_rate() * schedule_.factor(step, total_steps_);
  optimizer_->step(stream_,
                   {.number = step + 1, .learning_rate = rate, .control = control_->control()},
                   gradient_slice(part.begin, part.end), states,
                   slice(parameters_.data(), part.begin, part.end));
}

// The next forward pass reads the parameters of all ranks.
void Trainer::finish_sharing() {
  const Timer timer(times_.comm);
  const TimelineScope scope(Timeline::active(timeline_), /*lane=*/0, "parameters");
  shards_->finish_sharing(stream_);
}

// The norm of the gradient, and the factor that clips it.
void Trainer::take_norm() {
  const auto blocks = static_cast<std::int64_t>(norm_blocks_.size() / sizeof(double));
  const Tensor sums{norm_blocks_.data(), {blocks}, DType::f64, device_};
  Kernels& k = kernels(device_);
  if (shards_) {
    shards_->sum_squares(stream_, sum_->total(), sums);
  } else {
    k.sum_squares(stream_, gradient_slice(table_.slots_end, table_.gradient_bytes), sums);
  }
  const Tensor order =
      shards_ ? Tensor{norm_order_.data(), {blocks}, DType::i64, device_} : Tensor{};
  k.clip(stream_, sums, order, job_.train().clip_norm(),
         control_->scaled() ? control_->scale() : Tensor{}, control_->norm(), control_->factor());
  if (control_->scaled()) {
    k.adapt_scale(stream_, control_->norm(), job_.train().loss_scale_grows_after(),
                  control_->open(), control_->go(), control_->scaling());
  }
  control_->take_norm(stream_);
}

// Once of each step.
std::optional<StepResult> Trainer::read(StepValues& values) {
  if (values.step < 0) return {};
  check_loss(values);
  const auto slot = [&](const char* name) { return values.slot(table_.slot(name).offset); };
  StepResult result{.step = values.step};
  result.records =
      Loader::records_in_step(data_.train->size(), job_.train().global_batch(), result.step);
  const auto records = static_cast<double>(result.records);
  result.loss = slot("loss") / records;
  if (model_.has_accuracy) result.accuracy = slot("correct") / records;
  if (values.has_norm) take_decisions(values, result);
  result.learning_rate = optimizer_->learning_rate() * schedule_.factor(result.step, total_steps_);
  result.stop = slot("stop") > 0;
  values.step = -1;
  return result;
}

// Of a step that was skipped the log tells; one at the smallest scale is the end.
void Trainer::take_decisions(const StepValues& values, StepResult& result) const {
  const StepValues::Decided& decided = values.decided();
  const bool finite = std::isfinite(decided.norm);
  if (finite) result.gradient_norm = decided.norm;
  if (!control_->scaled()) return;
  result.loss_scale = decided.scaling.scale;
  if (finite) return;
  if (decided.open == 0) {
    throw Error(ErrorKind::numeric, cat("step ", values.step + 1),
                cat("the gradient is not finite at loss scale ", decided.scaling.used,
                    ", the smallest; weights are as they were before this step. A smaller learning "
                    "rate may help; the newest checkpoint is intact"));
  }
  log::info(cat("the gradient is not finite at loss scale ",
                static_cast<std::int64_t>(decided.scaling.used), ": step ", values.step + 1,
                " changes nothing, the next one has ",
                static_cast<std::int64_t>(decided.scaling.scale)));
}

Tensor Trainer::slice(std::byte* arena, std::size_t begin, std::size_t end) const {
  return {.data = arena + begin,
          .shape = {static_cast<std::int64_t>((end - begin) / sizeof(float))},
          .device = device_};
}

Tensor Trainer::gradient_slice(std::size_t begin, std::size_t end) const {
  return slice(sum_->total(), begin, end);
}

}  // namespace peal
