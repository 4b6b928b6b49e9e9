#include "launcher/train.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>
#include <memory>
#include <utility>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/config/job.h"
#include "core/kernels/kernels.h"
#include "launcher/metrics.h"
#include "launcher/newest_state.h"
#include "launcher/progress.h"
#include "launcher/rank_layout.h"
#include "launcher/rank_times.h"
#include "launcher/run_directory.h"
#include "launcher/shared_algorithms.h"
#include "launcher/status.h"
#include "launcher/stop_signal.h"
#include "launcher/supervised.h"
#include "launcher/trainer.h"
#include "launcher/version.h"

namespace peal {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::int64_t kFirstEvery = 8;  // until ranks have measured what a state in memory costs

// One that other work on its host slows for a moment is only seen by `peal status` and in the log.
constexpr double kStragglerSeconds = 10;

std::string straggler_text(const SlowRank& slow) {
  char factor[32];
  std::snprintf(factor, sizeof factor, "%.1f", slow.factor);
  return cat("straggler: rank ", slow.rank, " on host ", slow.host, " takes ", factor,
             " times as long for its part of a step as the others");
}

double seconds_from(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class Run {
 public:
  Run(JobSpec job, Communicator& comm, const TrainOptions& options)
      : job_(std::move(job)),
        comm_(comm),
        options_(options),
        progress_(comm.rank() == 0, options.terminal),
        times_(comm) {}

  void prepare();
  void loop();
  // Leaves a word for `peal status`.
  void tell_failure(const std::string& error, int code) {
    if (status_) status_->fail(error, code);
  }

 private:
  bool first_rank() const { return comm_.rank() == 0; }
  void open_directory();
  void share_start();
  void look_into_memory();
  void load_or_initialize(const Say& say);
  void keep_in_memory();
  std::vector<std::string> hosts();
  RunStatus first_status();
  std::string device_text() const;
  void announce();
  void after_step(std::int64_t step, std::optional<StepResult> result);
  void take(const StepResult& result);
  bool weights_are_due(std::int64_t step) const;
  void log_window(std::int64_t step, const StepResult& result);
  void evaluate(std::int64_t step);
  void save(std::int64_t step);
  void save_in_memory(std::int64_t step);
  void exchange_times(double step_seconds);
  void tell_straggler();
  void tell_cost();
  bool checkpoint_due(std::int64_t step) const;
  bool evaluation_due(std::int64_t step) const;
  std::int64_t epoch_of(std::int64_t step) const {  // of the last finished step; counts from 1
    return (step - 1) / trainer_->steps_per_epoch() + 1;
  }
  bool histograms_due(std::int64_t step) const;
  void histograms(std::int64_t step);
  void make_timeline();
  void write_timeline();

  JobSpec job_;
  Communicator& comm_;
  TrainOptions options_;
  Progress progress_;
  std::unique_ptr<RunDirectory> directory_;
  std::optional<Checkpoint> checkpoint_;
  std::unique_ptr<Timeline> timeline_;
  bool timeline_written_ = false;
  std::unique_ptr<Trainer> trainer_;
  std::unique_ptr<Metrics> metrics_;
  std::unique_ptr<CheckpointWriter> writer_;
  std::unique_ptr<StatusFile> status_;
  std::int64_t first_step_ = 0, saved_step_ = -1, evaluated_step_ = -1;

  std::uint64_t number_ = 0, forgotten_ = 0;  // of the run, and of the one that --fresh removed
  std::unique_ptr<NewestState> memory_;
  NewestState::Found found_;  // what this start goes on from, where that came from memory
  TimesExchange times_;
  double step_seconds_ = 0;  // of all steps so far
  double computed_ = 0;      // seconds that all steps so far took to compute, of a virtual rank
  struct {
    int rank = -1;
    Clock::time_point since;
    bool warned = false;
  } named_straggler_;
  std::vector<std::string> rank_hosts_;  // by rank

  // The steps since the last line of metrics.
  struct Window {
    double loss = 0, correct = 0;
    std::int64_t records = 0;
    double seconds = 0;
  } window_;
  bool stop_ = false;  // some rank asked for the end
  Clock::time_point step_start_;
  double speed_ = 0;
};

// Everything that can fail before step 1 fails here, on every rank alike.
void Run::prepare() {
  comm_.set_deadline(job_.parallel().start_deadline_seconds());
  agree(comm_, {{"peal", build()}, {"oneDNN", onednn_version()}, {"job", effective_job(job_)}});
  share_algorithms(job_, comm_);  // whose digest a checkpoint has, too
  together(comm_, [&] { open_directory(); });
  comm_.set_flight_directory(job_.run().directory() + "/flight");
  share_start();
  together(comm_, [&] { validate_job(job_, comm_.world_size(), "job"); });
  look_into_memory();

  const Say say = [this](const std::string& line) { progress_.say(line); };
  together(comm_, [&] { check_model(job_); });
  TrainingData data = open_data(job_, model_info(job_.model()), comm_, say);
  trainer_ = std::make_unique<Trainer>(job_, comm_, std::move(data), options_.hooks);
  agree(comm_, {{"parameter table", std::to_string(trainer_->table().hash())},
                {"training steps", std::to_string(trainer_->total_steps())}});
  together(comm_, [&] {
    log::start(
        comm_.rank(),
        std::filesystem::path(job_.run().directory()) / "logs" / cat("rank-", comm_.rank(), ".log"),
        /*echo=*/false);
    if (first_rank() && first_step_ > trainer_->total_steps()) {
      fail_input(found_.state ? found_.state->where() : checkpoint_->path().string(),
                 "has finished ", first_step_, " steps, the job has ", trainer_->total_steps(),
                 "; raise train.epochs or train.max_steps, or use --fresh");
    }
  });
  load_or_initialize(say);
  if (!options_.timeline.empty() && first_step_ < trainer_->total_steps()) make_timeline();
  const RunStatus status = first_status();
  together(comm_, [&] {
    if (!first_rank()) return;
    status_ = std::make_unique<StatusFile>(directory_->path(), status);
    directory_->write_job(job_);
    metrics_ = std::make_unique<Metrics>(directory_->path(), first_step_, job_.run().tensorboard());
    writer_ = std::make_unique<CheckpointWriter>(
        CheckpointOptions{directory_->checkpoints(), job_.checkpoint().keep(),
                          job_.checkpoint().best_metric(),
                          [this](bool begins, std::int64_t step) {
                            if (timeline_) timeline_->checkpoint(begins, step);
                          }},
        trainer_->weights(), trainer_->optimizer_state(), trainer_->compression_state());
  });
  keep_in_memory();
  announce();
}

// On rank 0 from memory, from disk or from nothing; all others get it from there.
void Run::load_or_initialize(const Say& say) {
  together(comm_, [&] {
    if (found_.state) {
      trainer_->load(*found_.state);
    } else if (checkpoint_) {
      trainer_->load(*checkpoint_);
    } else if (first_rank()) {
      trainer_->initialize_weights();
    }
  });
  trainer_->start(first_step_, say);
  checkpoint_.reset();
  found_.state.reset();
  memory_->drop_found();
}

// A state in memory counts when it is newer than what is on disk.
void Run::look_into_memory() {
  if (comm_.local_rank() == 0 && forgotten_ != 0) remove_memory_state(forgotten_);
  memory_ = std::make_unique<NewestState>(comm_, number_);
  const std::int64_t every = job_.checkpoint().memory_every_steps();
  if (every < 0 || (every == 0 && !supervised())) return;
  memory_->set_every(every > 0 ? every : kFirstEvery);
  NewestState::Found found = memory_->find(job_hash(job_));
  if (found.step <= first_step_) {
    memory_->drop_found();
    return;
  }
  found_ = std::move(found);
  first_step_ = found_.step;
  checkpoint_.reset();
}

void Run::keep_in_memory() {
  if (memory_->every() == 0 || first_step_ == trainer_->total_steps()) return;
  memory_->begin({.job = effective_job(job_), .job_hash = job_hash(job_)},
                 {trainer_->weights(), trainer_->optimizer_state(), trainer_->compression_state()},
                 trainer_->state_is_in_parts(), first_step_,
                 first_step_ > 0 ? epoch_of(first_step_) : 0,
                 [this](const std::vector<NamedTensor>& room) { trainer_->collect_state(room); });
}

RunStatus Run::first_status() {
  RunStatus status{.step = first_step_,
                   .steps = trainer_->total_steps(),
                   .epochs = job_.train().epochs(),
                   .ranks = comm_.world_size(),
                   .hosts = hosts()};
  if (first_step_ > 0) status.epoch = epoch_of(first_step_);
  if (const std::optional<Supervised> by = supervised()) status.left_out = by->left_out;
  status.memory_every = memory_->every();
  status.first_step = first_step_;
  if (found_.step >= 0) status.done_again = found_.finished - first_step_;
  return status;
}

void Run::open_directory() {
  make_folders(std::filesystem::path(job_.run().directory()));
  if (!first_rank()) return;
  directory_ = std::make_unique<RunDirectory>(job_.run().directory(),
                                              /*locked=*/supervised().has_value());
  if (options_.fresh) {
    forgotten_ = RunDirectory::number_in(directory_->path());
    directory_->clear();
  }
  number_ = directory_->number();
  if (std::optional<Checkpoint> found = directory_->newest()) {
    checkpoint_.emplace(std::move(*found));
    adopt_checkpoint(*checkpoint_, job_);
    first_step_ = checkpoint_->info().step;
  }
  if (job_.parallel().virtual_ranks() == 0) {
    job_.mutable_parallel()->set_virtual_ranks(comm_.world_size());
  }
}

// Rank 0 alone looks into the run directory; the others learn from it where to begin.
void Run::share_start() {
  std::int64_t facts[4] = {first_step_, job_.parallel().virtual_ranks(),
                           static_cast<std::int64_t>(number_),
                           static_cast<std::int64_t>(forgotten_)};
  Stream stream;
  comm_.wait(stream, comm_.broadcast(stream, "start",
                                     {.data = facts, .shape = {4}, .dtype = DType::i64}, 0));
  first_step_ = facts[0];
  job_.mutable_parallel()->set_virtual_ranks(static_cast<int>(facts[1]));
  number_ = static_cast<std::uint64_t>(facts[2]);
  forgotten_ = static_cast<std::uint64_t>(facts[3]);
  const std::filesystem::path logs = std::filesystem::path(job_.run().directory()) / "logs";
  together(comm_, [&] { make_folders(logs); });
}

// A file that cannot be written is told before step 1.
void Run::make_timeline() {
  together(comm_, [&] {
    const TimelineSteps steps =
        steps_to_record(options_.timeline_steps, first_step_ + 1, trainer_->total_steps());
    timeline_ = std::make_unique<Timeline>(steps, trainer_->timeline_room(), comm_);
    if (!first_rank()) return;
    if (std::filesystem::is_directory(options_.timeline)) {
      fail_input("--timeline", options_.timeline, " is a folder; name a file");
    }
    const FileWriter attempt(options_.timeline);
  });
  trainer_->set_timeline(timeline_.get());
  timeline_->start();
}

// Once: as soon as its last step is over, or when the run ends before.
void Run::write_timeline() {
  if (timeline_written_) return;
  timeline_written_ = true;
  const double error = timeline_->write(options_.timeline);
  const std::string lost =
      timeline_->dropped() == 0 ? "" : cat("; ", timeline_->dropped(), " events found no room");
  progress_.say(cat("timeline written to ", options_.timeline,
                    "; the clocks of its ranks agree to ", std::ceil(1e6 * error), " us", lost));
}

// The hosts of all ranks, in their order, each once.
std::vector<std::string> Run::hosts() {
  rank_hosts_ = host_names(comm_);
  std::vector<std::string> names;
  for (const std::string& name : rank_hosts_) {
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

std::string Run::device_text() const {
  const Device& device = trainer_->device();
  if (device.kind == Device::Kind::cpu) return "";
  return cat(" (", name_of(device), ", gradients by ", trainer_->gradient_backend(), ")");
}

void Run::announce() {
  std::int64_t values = 0;
  for (const ArenaEntry& entry : trainer_->table().parameters) values += entry.shape.numel();
  log::info(cat("effective job:\n", effective_job(job_)));
  if (!options_.binding.empty()) {
    log::info(
        cat("binding: ", options_.binding, "; ", trainer_->lanes(), " virtual ranks at a time"));
  }
  progress_.say(cat("peal ", build(), ": ", comm_.world_size(), " rank",
                    comm_.world_size() == 1 ? "" : "s", " (", comm_.backend(), "), ",
                    job_.parallel().virtual_ranks(), " virtual ranks, ", trainer_->lanes(),
                    " at a time on each", device_text(), "; run directory ",
                    job_.run().directory()));
  progress_.say(cat("model: ", trainer_->table().parameters.size(), " parameter tensors, ", values,
                    " values; job ", hex(job_hash(job_))));
  progress_.say(cat("memory of a rank: ", to_text(trainer_->memory())));
  if (const TrainSpec& train = job_.train(); !train.algorithms().empty())
    progress_.say(cat("algorithms by ", train.algorithms(), ", ", train.algorithms_digest()));
  if (const std::string& weights = job_.model().weights(); !weights.empty()) {
    progress_.say(first_step_ == 0 ? cat("weights from ", weights)
                                   : cat("weights from this run; ", weights, " is not read"));
  }
  if (found_.step >= 0) {
    progress_.say(cat("going on after step ", first_step_, ", from the memory of ", found_.host,
                      "; ", found_.finished - first_step_,
                      " finished steps are done again, states were kept every ", found_.every));
  } else if (first_step_ > 0) {
    progress_.say(cat("going on after step ", first_step_));
  }
}

void Run::loop() {
  StopSignal signals({SIGINT, SIGTERM});
  const std::int64_t steps = trainer_->total_steps();
  if (first_step_ == steps) {
    progress_.say(cat("the run is finished after step ", steps,
                      "; --fresh starts over, a larger train.epochs goes on"));
  }
  std::int64_t step = first_step_;
  // What was due when the last start ended is not lost with the hosts' memory.
  const bool from_memory = found_.step >= 0;
  if (from_memory && checkpoint_due(step)) save(step);
  while (step < steps && !stop_) {
    log::set_step(step + 1);
    comm_.set_step(step + 1);
    step_start_ = Clock::now();
    const bool want_norm = (step + 1) % job_.run().log_every_steps() == 0;
    if (timeline_) timeline_->begin_step(step + 1);
    const std::optional<StepResult> result = trainer_->step(step, StopSignal::asked(), want_norm);
    if (timeline_) timeline_->end_step();
    ++step;
    if (step == first_step_ + 1) {
      comm_.set_deadline(job_.parallel().deadline_seconds());
      log::info("first step finished");
    }
    after_step(step, result);
    if (timeline_ && timeline_->complete(step) && !stop_ && step < steps) write_timeline();
  }
  times_.finish();
  if (step > first_step_ || from_memory) {
    if (!stop_ && evaluated_step_ != step) evaluate(step);
    together(comm_, [&] {
      save(step);
      if (writer_) writer_->wait();
    });
  } else if (!stop_) {
    evaluate(step);
  }
  if (timeline_) write_timeline();
  tell_cost();
  memory_->remove();  // all of it is on disk
  signals.over();
  if (status_) status_->end(stop_ ? "stopped" : "finished");
  if (stop_) {
    progress_.say(cat("stopped after step ", step,
                      "; a checkpoint is written and the same command "
                      "goes on from there"));
  }
}

// `result`: of this step, or on a GPU of the one before. What others are to see of a step waits for
// its own.
void Run::after_step(std::int64_t step, std::optional<StepResult> result) {
  const double seconds = seconds_from(step_start_);
  memory_->finished(step);
  step_seconds_ += seconds;
  window_.seconds += seconds;
  if (result) take(*result);
  if (stop_ || weights_are_due(step)) {
    if ((result = trainer_->finish())) take(*result);
  }
  histograms(step);
  if (checkpoint_due(step)) save(step);
  if (evaluation_due(step)) evaluate(step);
  if (memory_->due(step)) save_in_memory(step);
  exchange_times(seconds);
}

void Run::take(const StepResult& result) {
  window_.records += result.records;
  window_.loss += result.loss * static_cast<double>(result.records);
  window_.correct += result.accuracy * static_cast<double>(result.records);
  stop_ = stop_ || result.stop;
  if (first_rank()) log_window(result.step + 1, result);
}

bool Run::weights_are_due(std::int64_t step) const {
  return checkpoint_due(step) || evaluation_due(step) || histograms_due(step) ||
         memory_->due(step) || step == trainer_->total_steps();
}

void Run::save_in_memory(std::int64_t step) {
  const TimelineScope scope(Timeline::active(timeline_.get()), /*lane=*/0, "keep in memory");
  memory_->save(step, epoch_of(step));
}

// What ranks tell each other decides how often states are kept: on all alike, since keeping
// compression's is a collective call.
void Run::exchange_times(double step_seconds) {
  const StepTimes& times = trainer_->times();
  const double computed = (times.forward + times.backward) / trainer_->parts_in_a_row();
  const bool fresh =
      times_.add(computed - std::exchange(computed_, computed), step_seconds, memory_->seconds());
  if (!fresh) return;
  if (memory_->every() > 0 && job_.checkpoint().memory_every_steps() == 0) {
    RankTimes most{};
    for (const RankTimes& rank : times_.all()) {
      most.save = std::max(most.save, rank.save);
      most.step = std::max(most.step, rank.step);
    }
    if (most.save > 0) memory_->set_every(steps_between_states(most.save, most.step));
  }
  if (first_rank()) tell_straggler();
}

void Run::tell_straggler() {
  SlowRank slow;
  if (const std::optional<Straggler>& straggler = times_.straggler()) {
    slow = {.rank = straggler->rank,
            .host = rank_hosts_[static_cast<std::size_t>(straggler->rank)],
            .factor = straggler->factor};
  }
  std::vector<double> compute;
  for (const RankTimes& rank : times_.all()) compute.push_back(rank.compute);
  status_->times(compute, slow);
  status_->memory_every(memory_->every());
  if (slow.rank != named_straggler_.rank) {
    named_straggler_ = {.rank = slow.rank, .since = Clock::now(), .warned = false};
    if (slow.rank >= 0) log::info(straggler_text(slow));
  }
  const bool lasts = slow.rank >= 0 && seconds_from(named_straggler_.since) > kStragglerSeconds;
  if (lasts && !std::exchange(named_straggler_.warned, true)) log::warn(straggler_text(slow));
}

void Run::tell_cost() {
  if (memory_->saves() == 0) return;
  char share[32];
  std::snprintf(share, sizeof share, "%.2f", 100 * memory_->all_seconds() / step_seconds_);
  progress_.say(
      cat("newest state in memory: ", memory_->saves(), " times, ", share, "% of the steps' time"));
}

void Run::log_window(std::int64_t step, const StepResult& result) {
  const bool due = step % job_.run().log_every_steps() == 0 || step == trainer_->total_steps();
  const auto records = static_cast<double>(window_.records);
  speed_ = records / window_.seconds;
  const double loss = window_.loss / records;
  const double accuracy = result.accuracy >= 0 ? window_.correct / records : -1;
  const double left =
      static_cast<double>((trainer_->total_steps() - step) * job_.train().global_batch()) / speed_;
  const ProgressLine line{.epoch = epoch_of(step),
                          .epochs = job_.train().epochs(),
                          .step = step,
                          .steps = trainer_->total_steps(),
                          .loss = loss,
                          .accuracy = accuracy,
                          .samples_per_second = speed_,
                          .seconds_left = left};
  progress_.step(line, due);
  status_->step(line);
  if (!due) return;
  std::map<std::string, double> values{
      {"loss", loss}, {"learning_rate", result.learning_rate}, {"samples_per_second", speed_}};
  if (accuracy >= 0) values["accuracy"] = accuracy;
  if (result.gradient_norm >= 0) values["gradient_norm"] = result.gradient_norm;
  if (result.loss_scale > 0) values["loss_scale"] = result.loss_scale;
  metrics_->write(step, epoch_of(step), values);
  window_ = {};
}

bool Run::histograms_due(std::int64_t step) const {
  const int every = job_.run().histograms_every_steps();
  return every != 0 && step % every == 0 && job_.run().tensorboard();
}

void Run::histograms(std::int64_t step) {
  if (!histograms_due(step)) return;
  trainer_->collect_gradients();
  if (!first_rank()) return;
  const auto write = [&](const std::string& prefix, const std::vector<NamedTensor>& tensors) {
    for (const NamedTensor& t : tensors) {
      metrics_->tensorboard()->histogram(
          prefix + t.name, step,
          {t.tensor.as<const float>(), static_cast<std::size_t>(t.tensor.numel())});
    }
  };
  trainer_->read_back();
  write("weights/", trainer_->parameters());
  write("gradients/", trainer_->gradients());
  metrics_->tensorboard()->flush();
}

bool Run::checkpoint_due(std::int64_t step) const {
  const std::int64_t every = job_.checkpoint().every_steps();
  return step % (every > 0 ? every : trainer_->steps_per_epoch()) == 0;
}

bool Run::evaluation_due(std::int64_t step) const {
  const std::int64_t every = job_.eval().every_epochs();
  return every > 0 && step % (every * trainer_->steps_per_epoch()) == 0;
}

void Run::evaluate(std::int64_t step) {
  const auto start = Clock::now();
  const TimelineScope scope(Timeline::active(timeline_.get()), /*lane=*/0, "evaluate");
  const std::map<std::string, double> values = trainer_->evaluate();
  evaluated_step_ = step;
  if (values.empty()) return;
  if (first_rank()) metrics_->write(step, epoch_of(step), values);
  // The best by a metric can only be told of a step that is on disk.
  if (!job_.checkpoint().best_metric().empty() && step > first_step_) save(step);
  if (!first_rank()) return;
  if (saved_step_ == step) writer_->report_metrics(step, values);
  std::string text = cat("epoch ", epoch_of(step), " done:");
  for (const auto& [name, value] : values) text += cat(" ", name, " ", value);
  progress_.say(text + cat(" (", clock_text(seconds_from(start)), ")"));
}

void Run::save(std::int64_t step) {
  if (saved_step_ == step) return;
  const TimelineScope scope(Timeline::active(timeline_.get()), /*lane=*/0, "save");
  trainer_->collect_state(writer_ ? writer_->optimizer_room() : std::vector<NamedTensor>{});
  saved_step_ = step;
  if (!writer_) return;
  writer_->save({.step = step,
                 .epoch = epoch_of(step),
                 .job = effective_job(job_),
                 .job_hash = job_hash(job_),
                 .metrics = {}});
}

}  // namespace

void train(JobSpec job, Communicator& comm, const TrainOptions& options) {
  // Batch systems send it ahead of the time limit, maybe while the run still gets ready: it then
  // makes one step and stops, so that no start is for nothing.
  StopSignal warning({SIGUSR1});
  Run run(std::move(job), comm, options);
  try {
    run.prepare();
    run.loop();
    warning.over();
  } catch (const Error& error) {
    run.tell_failure(error.what(), exit_code(error.kind()));
    throw;
  } catch (const std::exception& error) {
    run.tell_failure(error.what(), exit_code(ErrorKind::internal));
    throw;
  }
}

}  // namespace peal
