#include "launcher/job_setup.h"

#include "core/base/error.h"
#include "core/data/file_patterns.h"
#include "core/data/shard.h"
#include "core/data/tokens.h"
#include "core/state/weights_file.h"
#include "launcher/open_records.h"

namespace peal {

namespace {

std::vector<std::string> paths_of(const TokensSpec& spec) {
  return {spec.path().begin(), spec.path().end()};
}

std::unique_ptr<Dataset> open_windows(const TokensSpec& spec) {
  return open_tokens(
      paths_of(spec), *open_tokenizer(spec),
      {.length = spec.length(), .stride = spec.stride(), .begin = spec.begin(), .end = spec.end()});
}

std::unique_ptr<Dataset> open_dataset(const SourceSpec& spec) {
  switch (spec.kind_case()) {
    case SourceSpec::kIdx:
      return open_idx(spec.idx().images(), spec.idx().labels());
    case SourceSpec::kCsv:
      return open_csv(spec.csv().path(), {.header = spec.csv().header(),
                                          .label_column = spec.csv().label_column(),
                                          .delimiter = spec.csv().delimiter().at(0)});
    case SourceSpec::kShards:
      return open_shards(spec.shards().directory());
    case SourceSpec::kCifar:
      return open_cifar({spec.cifar().path().begin(), spec.cifar().path().end()},
                        {.begin = spec.cifar().begin(), .end = spec.cifar().end()});
    case SourceSpec::kTokens:
      return open_windows(spec.tokens());
    case SourceSpec::kPictures:
    case SourceSpec::kTar:
    case SourceSpec::kText:
      fail_input("data",
                 "pictures, tar files and text are no records to train on yet; run `peal "
                 "shard JOB --count N --out DIR` and give shards { directory: \"DIR\" }");
    case SourceSpec::KIND_NOT_SET:
      break;
  }
  fail_input("data", "no source of records; give one of idx, csv, shards, cifar, tokens");
}

PictureOptions picture_options(const PictureSpec& spec) {
  PictureOptions options{.height = spec.height(),
                         .width = spec.width(),
                         .channels = spec.channels(),
                         .skip_corrupt = spec.on_corrupt() == PictureSpec::SKIP};
  if (spec.fit() == PictureSpec::RESIZE) options.fit = PictureFit::resize;
  if (spec.fit() == PictureSpec::CROP) options.fit = PictureFit::crop;
  return options;
}

// Fetched by this rank, beside others of its host.
std::shared_ptr<Dataset> open_whole(const SourceSpec& spec) {
  return open_records(spec, /*window_shards=*/0, /*seed=*/1, *make_single_communicator(), {});
}

// What tells that a source has changed since.
std::vector<std::filesystem::path> files_of(const SourceSpec& spec) {
  if (spec.has_idx()) return {spec.idx().images(), spec.idx().labels()};
  if (spec.has_csv()) return {spec.csv().path()};
  if (spec.has_cifar()) {
    return find_files({spec.cifar().path().begin(), spec.cifar().path().end()}, "data");
  }
  if (spec.has_tokens()) {
    std::vector<std::filesystem::path> files = find_files(paths_of(spec.tokens()), "tokens");
    if (spec.tokens().tokenizer() == TokensSpec::GPT2) {
      files.insert(files.end(), {spec.tokens().encoder(), spec.tokens().merges()});
    }
    return files;
  }
  if (!spec.shards().url().empty()) return {};
  return {std::filesystem::path(spec.shards().directory()) / "manifest.textproto"};
}

}  // namespace

SourceSpec source_for(const SourceSpec& spec, const ModelInfo& model, const std::string& path) {
  SourceSpec full = spec;
  if (!spec.has_tokens()) return full;
  if (model.vocabulary == 0) {
    fail_input(path + ".tokens", "is for language models, and the model is none");
  }
  const std::int64_t context = model.record_shape[0];
  const std::int64_t length = spec.tokens().length();
  if (length != 0 && length != context) {
    fail_input(path + ".tokens.length", length, " is not the context of the model, ", context,
               "; leave it out");
  }
  full.mutable_tokens()->set_length(static_cast<std::int32_t>(context));
  return full;
}

std::unique_ptr<Tokenizer> open_tokenizer(const TokensSpec& spec) {
  switch (spec.tokenizer()) {
    case TokensSpec::BYTES:
      return byte_tokenizer();
    case TokensSpec::CHARACTERS:
      return open_character_tokenizer(paths_of(spec));
    case TokensSpec::GPT2:
      return gpt2_tokenizer(spec.encoder(), spec.merges());
  }
  fail_internal("tokenizer", "unknown value ", static_cast<int>(spec.tokenizer()));
}

std::shared_ptr<Dataset> open_source(const SourceSpec& spec) {
  if (is_fetched(spec)) return open_whole(spec);
  std::unique_ptr<Dataset> dataset = open_dataset(spec);
  if (spec.limit() > 0) dataset = limit_records(std::move(dataset), spec.limit());
  return dataset;
}

std::unique_ptr<RecordSource> open_record_source(const SourceSpec& spec) {
  switch (spec.kind_case()) {
    case SourceSpec::kPictures:
      return open_picture_folder(spec.pictures().folder(),
                                 picture_options(spec.pictures().picture()));
    case SourceSpec::kTar:
      return open_tars(
          {spec.tar().path().begin(), spec.tar().path().end()},
          {.label_ending = spec.tar().label(), .picture = picture_options(spec.tar().picture())});
    case SourceSpec::kText:
      return open_text({spec.text().path().begin(), spec.text().path().end()},
                       {.lines = spec.text().by() == TextSpec::LINE,
                        .length = spec.text().length(),
                        .label_first = spec.text().label_first(),
                        .cut_long = spec.text().cut_long_lines()});
    default:
      if (is_fetched(spec)) return dataset_source(open_whole(spec), files_of(spec));
      return dataset_source(open_dataset(spec), files_of(spec));
  }
}

bool skips_corrupt(const SourceSpec& spec) {
  const PictureSpec& picture = spec.has_tar() ? spec.tar().picture() : spec.pictures().picture();
  return picture.on_corrupt() == PictureSpec::SKIP;
}

namespace {

PreprocessStep standardize_step(const StandardizeSpec& spec) {
  PreprocessStep step;
  switch (spec.by()) {
    case StandardizeSpec::PER_RECORD:
      step.kind = PreprocessStep::Kind::standardize_per_record;
      break;
    case StandardizeSpec::PER_FEATURE:
      step.kind = PreprocessStep::Kind::standardize_per_feature;
      break;
    case StandardizeSpec::GIVEN:
      step.kind = PreprocessStep::Kind::standardize_given;
      step.mean.assign(spec.mean().begin(), spec.mean().end());
      step.std.assign(spec.std().begin(), spec.std().end());
      break;
  }
  return step;
}

PreprocessStep preprocess_step(const PreprocessSpec& spec) {
  using StepKind = PreprocessStep::Kind;
  switch (spec.kind_case()) {
    case PreprocessSpec::kScale:
      return {.kind = StepKind::scale,
              .factor = spec.scale().factor(),
              .offset = spec.scale().offset()};
    case PreprocessSpec::kStandardize:
      return standardize_step(spec.standardize());
    case PreprocessSpec::kOneHot:
      return {.kind = StepKind::one_hot, .classes = spec.one_hot().classes()};
    case PreprocessSpec::kRandomCrop:
      return {.kind = StepKind::random_crop, .padding = spec.random_crop().padding()};
    case PreprocessSpec::kRandomFlip:
      return {.kind = StepKind::random_flip, .probability = spec.random_flip().probability()};
    case PreprocessSpec::KIND_NOT_SET:
      break;
  }
  fail_input("data.preprocess",
             "an empty step; give one of scale, standardize, one_hot, random_crop, random_flip");
}

}  // namespace

std::vector<PreprocessStep> preprocess_steps(const DataSpec& spec) {
  std::vector<PreprocessStep> steps;
  for (const PreprocessSpec& step : spec.preprocess()) steps.push_back(preprocess_step(step));
  return steps;
}

bool needs_training_records(const DataSpec& spec) {
  for (const PreprocessSpec& step : spec.preprocess()) {
    if (step.has_standardize() && step.standardize().by() == StandardizeSpec::PER_FEATURE) {
      return true;
    }
  }
  return false;
}

std::unique_ptr<Optimizer> make_optimizer(const OptimizerSpec& spec) {
  switch (spec.kind_case()) {
    case OptimizerSpec::kSgd: {
      const SgdSpec& s = spec.sgd();
      return make_sgd({s.learning_rate(), s.momentum(), s.weight_decay(), s.nesterov()});
    }
    case OptimizerSpec::kAdam: {
      const AdamSpec& s = spec.adam();
      return make_adam({s.learning_rate(), s.beta1(), s.beta2(), s.epsilon(), s.weight_decay(),
                        /*decoupled=*/false});
    }
    case OptimizerSpec::kAdamw: {
      const AdamWSpec& s = spec.adamw();
      return make_adam({s.learning_rate(), s.beta1(), s.beta2(), s.epsilon(), s.weight_decay(),
                        /*decoupled=*/true});
    }
    case OptimizerSpec::kRmsprop: {
      const RmsPropSpec& s = spec.rmsprop();
      return make_rmsprop(
          {s.learning_rate(), s.alpha(), s.epsilon(), s.momentum(), s.weight_decay()});
    }
    case OptimizerSpec::KIND_NOT_SET:
      break;
  }
  fail_input("optimizer", "none given; give one of sgd, adam, adamw, rmsprop");
}

Schedule make_schedule(const ScheduleSpec& spec) {
  Schedule schedule;
  schedule.warmup_steps = spec.warmup_steps();
  switch (spec.kind_case()) {
    case ScheduleSpec::kStep:
      schedule.kind = Schedule::Kind::step;
      schedule.every_steps = spec.step().every_steps();
      schedule.gamma = spec.step().gamma();
      break;
    case ScheduleSpec::kCosine:
      schedule.kind = Schedule::Kind::cosine;
      schedule.last_factor = spec.cosine().last_factor();
      break;
    case ScheduleSpec::kLinear:
      schedule.kind = Schedule::Kind::linear;
      schedule.last_factor = spec.linear().last_factor();
      break;
    case ScheduleSpec::kConstant:
    case ScheduleSpec::KIND_NOT_SET:
      break;
  }
  return schedule;
}

namespace {

Compression compression(const CompressionSpec& spec) {
  Compression c;
  switch (spec.kind_case()) {
    case CompressionSpec::kF16:
      c.kind = Compression::Kind::half;
      c.wire = {DType::f16, static_cast<float>(spec.f16().scale())};
      break;
    case CompressionSpec::kBf16:
      c.kind = Compression::Kind::half;
      c.wire = {DType::bf16, 1};
      break;
    case CompressionSpec::kInt8:
      c.kind = Compression::Kind::int8;
      c.block = static_cast<std::size_t>(spec.int8().block());
      break;
    case CompressionSpec::kPowerSgd:  // is no matter of buckets
    case CompressionSpec::KIND_NOT_SET:
      break;
  }
  return c;
}

}  // namespace

Precision precision_of(const TrainSpec& spec, const Device& device) {
  Precision precision = Precision::f32;
  if (spec.precision() == TrainSpec::TF32) precision = Precision::tf32;
  if (spec.precision() == TrainSpec::BF16) precision = Precision::bf16;
  if (spec.precision() == TrainSpec::F16) precision = Precision::f16;
  if (kernels(device).has_precision(precision)) return precision;
  const bool cpu = device.kind == Device::Kind::cpu;
  fail_input("train.precision", TrainSpec::Precision_Name(spec.precision()), " is not there on ",
             cpu ? cat("this CPU (", onednn_instructions(), ")") : to_string(device),
             "; allowed: F32", kernels(device).has_precision(Precision::bf16) ? ", BF16" : "");
}

PlanOptions plan_options(const JobSpec& job, const Device& device) {
  const bool on_gpu = device.kind != Device::Kind::cpu;
  return {.precision = precision_of(job.train(), device),
          .outputs = false,
          .recompute = job.train().recompute() == TrainSpec::BLOCKS,
          .record = on_gpu && job.train().cuda_graphs(),
          .deterministic = job.parallel().reduction() != ParallelSpec::FAST};
}

std::int64_t records_of_pass(const JobSpec& job) {
  return job.train().global_batch() /
         (job.parallel().virtual_ranks() * job.train().accumulate_steps());
}

BucketOptions bucket_options(const ParallelSpec& spec) {
  BucketOptions options;
  options.bucket_bytes =
      static_cast<std::size_t>(parse_bytes(spec.bucket_size(), "parallel.bucket_size"));
  options.virtual_ranks = spec.virtual_ranks();
  options.compression = compression(spec.compression());
  switch (spec.reduction()) {
    case ParallelSpec::RANK_INVARIANT:
      options.reduction = Reduction::rank_invariant;
      break;
    case ParallelSpec::REPEATABLE:
      options.reduction = Reduction::repeatable;
      break;
    case ParallelSpec::FAST:
      options.reduction = Reduction::fast;
      break;
  }
  return options;
}

void load_weights(const ModelSpec& model, const std::filesystem::path& path,
                  const std::vector<NamedTensor>& into) {
  load_weights_file(path, into,
                    [&](const std::string& name) { return ignores_tensor(model, name); });
}

namespace {

void check_language_data(const Dataset& dataset, const ModelInfo& model) {
  if (!holds_tokens(dataset)) {
    fail_input(dataset.name(),
               "holds numbers; a language model wants tokens: give data.train and "
               "data.test as tokens { ... }, or as shards made of such");
  }
  const Shape wanted{model.record_shape[0] + 1};
  if (dataset.record_shape() != wanted) {
    fail_input(dataset.name(), "a record has shape ", dataset.record_shape(),
               "; the model, whose context is ", model.record_shape[0], ", wants ", wanted);
  }
  if (dataset.whole()) check_tokens(dataset, model.vocabulary);
}

}  // namespace

void check_data(const Dataset& dataset, const Preprocess& preprocess, const ModelInfo& model) {
  if (model.vocabulary > 0) return check_language_data(dataset, model);
  if (holds_tokens(dataset)) {
    fail_input(dataset.name(), "holds tokens, which only a language model takes");
  }
  const Shape& given = preprocess.output_shape();
  if (given.numel() != model.record_shape.numel()) {
    fail_input(dataset.name(), "a record has shape ", given,
               " after preprocessing, the model wants ", model.record_shape, " (",
               model.record_shape.numel(), " values)");
  }
  if (!dataset.whole()) return;  // the loader looks at labels as they come
  if (model.classes > 0) check_class_labels(dataset, model.classes);
  if (model.binary) check_class_labels(dataset, 2);
}

}  // namespace peal
