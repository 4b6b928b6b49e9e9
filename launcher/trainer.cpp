#include "launcher/trainer.h"

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/config/job.h"
#include "core/kernels/kernels.h"
#include "launcher/job_setup.h"
#include "launcher/power_sgd.h"
#include "launcher/rank_device.h"
#include "launcher/rank_layout.h"
#include "launcher/shared_algorithms.h"
#include "launcher/train.h"

namespace peal {

TrainingData open_data(const JobSpec& job, const ModelInfo& model, Communicator& comm,
                       const Say& say) {
  TrainingData data;
  const std::uint64_t seed = job.train().seed();
  SourceSpec train, test;
  together(comm, [&] {
    train = source_for(job.data().train(), model, "data.train");
    test = source_for(job.data().test(), model, "data.test");
  });
  data.train = open_records(train, job.data().shuffle_window_shards(), seed, comm, say);
  if (test.kind_case() != SourceSpec::KIND_NOT_SET) {
    data.test = open_records(test, /*window_shards=*/0, seed, comm, say);
  }
  together(comm, [&] {
    if (!data.train->whole() && needs_training_records(job.data())) {
      fail_input("data.preprocess",
                 "standardize by: PER_FEATURE reads all records before step 1, and "
                 "those of ",
                 data.train->name(),
                 " come in windows while the job trains; give mean "
                 "and std with by: GIVEN, or leave data.shuffle_window_shards or the cache out");
    }
    data.preprocess = std::make_shared<Preprocess>(preprocess_steps(job.data()), *data.train);
    check_data(*data.train, *data.preprocess, model);
    if (!data.test) return;
    check_data(*data.test, *data.preprocess, model);
    if (data.test->record_shape() != data.train->record_shape()) {
      fail_input(data.test->name(), "records have shape ", data.test->record_shape(), ", those of ",
                 data.train->name(), " have ", data.train->record_shape());
    }
  });
  return data;
}

void check_model(const JobSpec& job) {
  const CompressionSpec& compression = job.parallel().compression();
  const bool recompute = job.train().recompute() == TrainSpec::BLOCKS;
  if (!compression.has_power_sgd() && !recompute) return;
  Graph graph;
  build_model(job.model(), /*batch=*/1, graph);
  if (recompute && graph.blocks() == 0) {
    const auto* model = ModelSpec::descriptor()->FindFieldByNumber(job.model().kind_case());
    fail_input("train.recompute", "BLOCKS needs a model that has blocks, gpt or resnet; ",
               model->name(), " has none, write NONE");
  }
  if (compression.has_power_sgd())
    check_power_sgd(make_parameter_table(graph), compression.power_sgd().rank());
}

Trainer::Trainer(const JobSpec& job, Communicator& comm, TrainingData data,
                 const TrainerHooks& hooks)
    : job_(job),
      hooks_(hooks),
      comm_(comm),
      data_(std::move(data)),
      model_(model_info(job.model())),
      device_(device_of_rank(job, comm)),
      device_comm_(make_gradient_communicator(job, comm, device_)),
      stream_(device_),
      stop_flag_(kAlignment, device_) {
  const int virtual_ranks = job_.parallel().virtual_ranks();
  block_ = block_of(virtual_ranks, comm_.world_size(), comm_.rank());
  steps_per_epoch_ = Loader::steps_per_epoch(data_.train->size(), job_.train().global_batch());
  total_steps_ = steps_per_epoch_ * job_.train().epochs();
  if (job_.train().max_steps() > 0) total_steps_ = std::min(total_steps_, job_.train().max_steps());

  const auto table = share_algorithms(job_, comm_);
  together(comm_, [&] {
    plan_options_ = plan_options(job_, device_);
    plan_options_.record |= hooks_.record;
    plan_options_.choose =
        choose_by(table, job_.train().algorithms(), kernels(device_).algorithm_library());
  });
  make_plans();
  states_ = Mirror(table_.state_bytes, device_);
  parameters_ = Mirror(table_.gradient_bytes, device_);
  optimizer_ = make_optimizer(job_.optimizer());
  schedule_ = make_schedule(job_.schedule());
  const auto trained = static_cast<std::int64_t>((table_.gradient_bytes - table_.slots_end) / 4);
  norm_blocks_ = Buffer(static_cast<std::size_t>(norm_blocks(trained)) * sizeof(double), device_);
  const bool late = hooks_.late || device_.kind != Device::Kind::cpu;
  control_ =
      std::make_unique<StepControl>(table_.slots_end, device_, late, scales_loss(job_.train()));
  scaling_ = pinned(Buffer(kAlignment), device_);

  make_sum();
  make_optimizer_states();
  sum_->set_overlap(job_.parallel().overlap());
  if (sum_->errors() != Errors::none) {
    compression_ = std::make_unique<CompressionState>(comm_, table_, virtual_ranks, *sum_);
  }
  lanes_ = std::make_unique<Lanes>(sum_->lanes());
  for (Plan& plan : plans_) {
    plan.bind(parameters_.data(), states_.data());
    plan.set_gradient_bounds(sum_->bounds());
    if (control_->scaled()) plan.bind_loss_factor(control_->scale());
  }
  if (evaluation_) evaluation_->plan().bind(parameters_.data(), states_.data());
}

Trainer::~Trainer() = default;

// A GPU works on one virtual rank at a time, with all of itself. Collective.
int Trainer::lanes_wanted() const {
  if (device_.kind != Device::Kind::cpu) return 1;
  return lane_count(job_.parallel().threads(), cpus_of_rank(comm_), block_.end - block_.begin);
}

void Trainer::make_plans() {
  const std::int64_t records = records_of_pass(job_);
  Graph graph;
  build_model(job_.model(), records, graph);
  // Whether somebody asked for the end travels with the gradients.
  add_stop_slot(graph);
  table_ = make_parameter_table(graph);
  const int lanes = lanes_wanted();
  for (int lane = 0; lane < lanes; ++lane) {
    plans_.emplace_back(graph, table_, device_, /*training=*/true, plan_options_);
    plans_.back().set_input("stop", {.data = stop_flag_.data(), .shape = {1}, .device = device_});
  }
  x_shape_ = Shape{records};
  for (const std::int64_t dim : model_.record_shape) x_shape_.push_back(dim);
  if (data_.test) {
    evaluation_ = std::make_unique<Evaluation>(job_.model(), table_, data_.test, data_.preprocess,
                                               job_.eval().batch(), plan_options_.precision,
                                               device_, plan_options_.choose);
  }
}

void Trainer::make_sum() {
  BucketOptions options = bucket_options(job_.parallel());
  const int lanes = static_cast<int>(plans_.size()), parts = job_.train().accumulate_steps();
  if (job_.parallel().compression().has_power_sgd()) {
    sum_ = std::make_unique<PowerSgd>(
        comm_, table_,
        PowerSgdOptions{.rank = job_.parallel().compression().power_sgd().rank(),
                        .virtual_ranks = options.virtual_ranks,
                        .seed = job_.train().seed(),
                        .bucket_bytes = options.bucket_bytes,
                        .lanes = lanes,
                        .parts = parts,
                        .on_lanes = [this](const auto& work) { lanes_->run(work); }});
    return;
  }
  options.compression.exact_bytes = table_.slots_end;
  // Blocks of the norm stay whole.
  constexpr std::size_t kUnit = Kernels::kNormBlock * sizeof(float);
  if (job_.parallel().shard_optimizer()) {
    options.sharding = {.whole_bytes = table_.slots_end, .unit = kUnit};
  }
  buckets_ = std::make_unique<GradientBuckets>(gradient_comm(), table_.gradient_bytes, options);
  const bool invariant = options.reduction == Reduction::rank_invariant;
  first_leaf_ = invariant ? 0 : block_.begin;
  const TreeNode leaves = invariant ? block_ : TreeNode{0, block_.end - block_.begin};
  sum_ = std::make_unique<GradientTree>(invariant ? options.virtual_ranks : leaves.end, leaves,
                                        lanes, parts, table_.gradient_bytes, *buckets_, device_);
}

void Trainer::make_optimizer_states() {
  std::size_t bytes = table_.gradient_bytes;
  if (buckets_ && buckets_->shards() != nullptr) {
    shards_ = std::make_unique<OptimizerShards>(*buckets_->shards(), gradient_comm(), comm_, table_,
                                                device_);
    bytes = shards_->state_bytes();
    const std::vector<std::int64_t>& order = shards_->block_order();
    norm_order_ = Buffer(order.size() * sizeof order[0], device_);
    copy(stream_, norm_order_.data(), reinterpret_cast<const std::byte*>(order.data()),
         norm_order_.size());
    stream_.synchronize();
  }
  for (std::size_t i = 0; i < optimizer_->state_names().size(); ++i) {
    optimizer_states_.emplace_back(bytes, device_);
  }
  optimizer_slices_.resize(optimizer_states_.size());
}

void Trainer::make_loader(std::int64_t first_step) {
  LoaderOptions options;
  options.global_batch = job_.train().global_batch();
  options.virtual_ranks = job_.parallel().virtual_ranks();
  options.accumulate_steps = job_.train().accumulate_steps();
  options.first_virtual_rank = block_.begin;
  options.end_virtual_rank = block_.end;
  options.first_step = first_step;
  options.last_step = total_steps_;
  options.seed = job_.train().seed();
  options.shuffle = job_.data().shuffle();
  options.window_shards = job_.data().shuffle_window_shards();
  options.integer_labels = model_.classes > 0;
  options.label_end = model_.binary ? 2 : model_.classes;
  options.vocabulary = model_.vocabulary;
  options.prefetch_batches = job_.data().prefetch_batches();
  options.threads = job_.data().loader_threads();
  options.device = device_;
  feeds_.clear();
  loader_ = std::make_unique<Loader>(data_.train, data_.preprocess, options);
  for (int lane = 0; lane < sum_->lanes(); ++lane) {
    feeds_.push_back(std::make_unique<BatchFeed>(*loader_, x_shape_, device_, control_->late()));
  }
}

void Trainer::initialize_weights() {
  initialize(table_, job_.train().seed(), parameters_.host(), states_.host());
  const float scaling[] = {static_cast<float>(job_.train().loss_scale()), 0};
  std::memcpy(scaling_.data(), scaling, sizeof scaling);
  if (!job_.model().weights().empty())
    load_weights(job_.model(), job_.model().weights(), weights());
}

namespace {

// What load_tensors has compared, in the order of `names`.
std::vector<NamedTensor> in_order(const std::vector<NamedTensor>& saved,
                                  const std::vector<NamedTensor>& names) {
  std::vector<NamedTensor> list;
  for (const NamedTensor& wanted : names) {
    list.push_back(*std::find_if(saved.begin(), saved.end(), [&](const NamedTensor& t) {
      return current_name(t.name) == wanted.name;
    }));
  }
  return list;
}

}  // namespace

void Trainer::load(const Checkpoint& checkpoint) {
  checkpoint.load_weights(weights());
  checkpoint.load_optimizer(optimizer_state());
  if (shards_) saved_optimizer_ = in_order(checkpoint.optimizer(), optimizer_state());
  saved_compression_ = checkpoint.compression();
  if (compression_) compression_->check(saved_compression_, checkpoint.path().string());
}

void Trainer::load(const MemoryState& state) {
  load_tensors(state.where(), state.weights(), weights());
  load_tensors(state.where(), state.optimizer(), optimizer_state());
  if (shards_) saved_optimizer_ = in_order(state.optimizer(), optimizer_state());
  saved_compression_ = state.compression();
  if (compression_) compression_->check(saved_compression_, state.where());
}

void Trainer::start(std::int64_t first_step, const Say& say) {
  make_loader(first_step);
  if (!data_.train->whole()) await_records(*data_.train, comm_, say);
  const auto send = [&](const char* name, Mirror& arena) {
    if (arena.size() == 0) return;
    Tensor bytes{.data = arena.host(),
                 .shape = {static_cast<std::int64_t>(arena.size())},
                 .dtype = DType::u8};
    comm_.wait(host_, comm_.broadcast(host_, name, bytes, /*root=*/0));
    arena.upload(stream_);
  };
  send("parameters", parameters_);
  send("states", states_);
  if (!shards_) {
    for (Mirror& state : optimizer_states_) send("optimizer state", state);
  } else if (first_step > 0) {  // else zero, as they are
    shards_->give(host_, saved_optimizer_, optimizer_states_);
    for (Mirror& state : optimizer_states_) state.upload(stream_);
  }
  if (control_->scaled()) {
    const Tensor scaling = loss_scaling();
    comm_.wait(host_, comm_.broadcast(host_, "loss scale", scaling, /*root=*/0));
    copy(stream_, control_->scaling().as<std::byte>(), scaling_.data(), scaling.bytes());
  }
  saved_optimizer_.clear();
  stream_.synchronize();
  if (compression_ && first_step > 0) compression_->restore(host_, saved_compression_);
  saved_compression_.clear();
}

std::map<std::string, double> Trainer::evaluate() {
  return evaluation_ ? evaluation_->run(comm_) : std::map<std::string, double>{};
}

std::vector<NamedTensor> Trainer::views(std::byte* arena, const std::string& prefix) const {
  std::vector<NamedTensor> list;
  for (const ArenaEntry& entry : table_.parameters) {
    list.push_back({prefix + entry.name, {.data = arena + entry.offset, .shape = entry.shape}});
  }
  return list;
}

std::vector<NamedTensor> Trainer::parameters() const {
  return views(parameters_.host(), "");
}

std::vector<NamedTensor> Trainer::gradients() {
  if (device_.kind == Device::Kind::cpu && !control_->scaled()) return views(sum_->total(), "");
  if (gradient_copy_.size() == 0) gradient_copy_ = Buffer(table_.gradient_bytes);
  copy(stream_, gradient_copy_.data(), sum_->total(), table_.gradient_bytes);
  stream_.synchronize();
  if (control_->scaled()) {
    const float scale = control_->newest().decided().scaling.used;
    const Tensor all = {gradient_copy_.data(),
                        {static_cast<std::int64_t>(table_.gradient_bytes / sizeof(float))}};
    kernels(kCpu).scale(host_, 1 / scale, all, all);
  }
  return views(gradient_copy_.data(), "");
}

std::vector<NamedTensor> Trainer::weights() const {
  std::vector<NamedTensor> list = parameters();
  for (const ArenaEntry& entry : table_.states) {
    list.push_back({entry.name, {.data = states_.host() + entry.offset, .shape = entry.shape}});
  }
  return list;
}

std::vector<NamedTensor> Trainer::optimizer_state() const {
  std::vector<NamedTensor> list;
  const std::vector<std::string> names = optimizer_->state_names();
  for (std::size_t i = 0; i < names.size(); ++i) {
    for (NamedTensor& view : views(optimizer_states_[i].host(), names[i] + "/")) {
      if (shards_) view.tensor.data = nullptr;
      list.push_back(std::move(view));
    }
  }
  if (control_->scaled()) list.push_back({"loss_scale", loss_scaling()});
  return list;
}

Tensor Trainer::loss_scaling() const {
  return {.data = scaling_.data(), .shape = {2}};
}

std::vector<NamedTensor> Trainer::compression_state() {
  return compression_ ? compression_->tensors() : std::vector<NamedTensor>{};
}

void Trainer::collect_state(const std::vector<NamedTensor>& room) {
  if (compression_) compression_->collect(host_);
  read_back();
  if (shards_) shards_->collect(host_, optimizer_states_, room);
}

void Trainer::collect_gradients() {
  if (shards_) shards_->collect_gradients(stream_, sum_->total());
}

void Trainer::read_back() {
  parameters_.download(stream_);
  states_.download(stream_);
  for (const Mirror& state : optimizer_states_) state.download(stream_);
  copy(stream_, scaling_.data(), control_->scaling().as<std::byte>(), loss_scaling().bytes());
  stream_.synchronize();
}

void Trainer::record_ready(std::vector<ReadyTime>* into) {
  into->reserve(table_.parameters.size() + 1);
  ready_times_ = into;
}

MemoryTable Trainer::memory() const {
  MemoryTable table;
  table.parameters = parameters_.size() + states_.size();
  table.gradients = sum_->bytes();
  for (const Mirror& state : optimizer_states_) table.optimizer += state.size();
  table.whole_optimizer = table.optimizer;
  if (shards_) {
    table.whole_optimizer = optimizer_states_.size() * table_.gradient_bytes;
    table.slices = comm_.world_size();
    table.scratch += shards_->bytes();
  }
  const auto count = [&](const Plan& plan) {
    table.activations += plan.memory().activations;
    table.scratch += plan.memory().scratch;
    if (plan.memory().activations_kept > plan.memory().activations)
      table.saved += plan.memory().activations_kept - plan.memory().activations;
  };
  for (const Plan& plan : plans_) count(plan);
  if (evaluation_) count(evaluation_->plan());
  return table;
}

std::string to_text(const MemoryTable& memory) {
  const auto bytes = [](std::size_t n) { return human_bytes(static_cast<double>(n)); };
  const std::string sharded = memory.slices == 1
                                  ? ""
                                  : cat(" (sharded over ", memory.slices,
                                        " ranks: ", bytes(memory.whole_optimizer), " in all)");
  const std::string saved =
      memory.saved > 0 ? cat(" (train.recompute saves ", bytes(memory.saved), ")") : "";
  return cat("parameters ", bytes(memory.parameters), ", gradients ", bytes(memory.gradients),
             ", optimizer ", bytes(memory.optimizer), sharded, ", activations ",
             bytes(memory.activations), saved, ", scratch ", bytes(memory.scratch), ", together ",
             bytes(memory.total()));
}

TimelineRoom Trainer::timeline_room() const {
  constexpr std::size_t kPhases = 4, kOthers = 2;  // data, forward, backward, merge
  TimelineRoom room;
  for (int lane = 0; lane < sum_->lanes(); ++lane) {
    const TreeNode leaves = sum_->leaves(lane);
    const auto passes =
        static_cast<std::size_t>((leaves.end - leaves.begin) * job_.train().accumulate_steps());
    room.spans.push_back(kPhases * passes + kOthers);
  }
  room.spans[0] += 2 * sum_->slices() + 1;              // wait, optimizer; parameters
  room.calls = (shards_ ? 3 : 2) * sum_->slices() + 1;  // sums, parameters; the norm
  return room;
}

}  // namespace peal
