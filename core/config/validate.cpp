// What can be known about a job before any data is read.
#include <google/protobuf/descriptor.h>
#include <google/protobuf/message.h>

#include <charconv>
#include <cmath>
#include <cstdint>

#include "core/base/error.h"
#include "core/config/fields.h"
#include "core/config/job.h"

namespace peal {
namespace {

using config::FieldDescriptor;
using config::Message;

// `where` of an error: "job.textproto: train.global_batch".
class Checker {
 public:
  explicit Checker(std::string where) : where_(std::move(where)) {}

  template <typename... Parts>
  void require(bool condition, const std::string& path, const Parts&... parts) const {
    if (!condition) fail_input(at(path), parts...);
  }
  std::string at(const std::string& path) const { return where_ + ": " + path; }

 private:
  std::string where_;
};

// Every number that is set lies in its field's range.
void check_ranges(const Checker& check, const Message& message, const std::string& prefix) {
  const auto& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    const std::string path = prefix + field->name();
    const int size = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < size; ++i) {
      const int index = field->is_repeated() ? i : -1;
      const std::string element = index < 0 ? path : cat(path, "[", i, "]");
      if (field->message_type() != nullptr) {
        check_ranges(check,
                     index < 0 ? reflection.GetMessage(message, field)
                               : reflection.GetRepeatedMessage(message, field, i),
                     element + ".");
      } else {
        config::check_range(message, *field, check.at(element), index);
      }
    }
  }
}

std::string choices(const google::protobuf::Descriptor* message) {
  std::vector<std::string> names;
  const auto* choice = message->oneof_decl(0);
  for (int i = 0; i < choice->field_count(); ++i) names.push_back(choice->field(i)->name());
  return "write one of " + join(names);
}

void check_csv(const Checker& check, const CsvSpec& csv, const std::string& path) {
  check.require(!csv.path().empty(), path + ".path", "is missing; name the file");
  const std::string& delimiter = csv.delimiter();
  check.require(delimiter.size() == 1 && delimiter.find_first_of("\"\r\n") == std::string::npos,
                path + ".delimiter", config::quoted(delimiter),
                " is not one character other than a quote or a line's end");
  const std::string& label = csv.label_column();
  check.require(!label.empty(), path + ".label_column", "is empty; name the label's column");
  if (csv.header()) return;
  int number = 0;
  const auto [end, code] = std::from_chars(label.data(), label.data() + label.size(), number);
  check.require(code == std::errc() && end == label.data() + label.size(), path + ".label_column",
                config::quoted(label),
                " is no number; without a header, columns are numbered "
                "from 0, and from -1 backwards from the end");
}

void check_picture(const Checker& check, const PictureSpec& picture, const std::string& path) {
  check.require(picture.channels() != 2, path + ".channels",
                "2 is not allowed; write 1 (grey), 3 (colour) or 0 (as in the first picture)");
}

void check_text(const Checker& check, const TextSpec& text, const std::string& path) {
  check.require(text.path_size() > 0, path + ".path", "is missing; name a file");
  check.require(text.by() == TextSpec::LINE || (!text.label_first() && !text.cut_long_lines()),
                path, "label_first and cut_long_lines are for by: LINE only");
}

void check_tokens(const Checker& check, const TokensSpec& tokens, const std::string& path) {
  check.require(tokens.path_size() > 0, path + ".path", "is missing; name a text file");
  const bool gpt2 = tokens.tokenizer() == TokensSpec::GPT2;
  for (const auto& [field, value] :
       {std::pair(".encoder", tokens.encoder()), {".merges", tokens.merges()}}) {
    check.require(!gpt2 || !value.empty(), path + field,
                  "is missing; tokenizer: GPT2 needs its files encoder.json and vocab.bpe");
    check.require(gpt2 || value.empty(), path + field, "is for tokenizer: GPT2 only");
  }
  check.require(tokens.begin() < tokens.end(), path + ".begin", tokens.begin(),
                " is not before the end, ", tokens.end());
}

void check_shards(const Checker& check, const ShardsSpec& shards, const std::string& path) {
  const bool web = !shards.url().empty();
  check.require(web || !shards.directory().empty(), path + ".directory",
                "is missing; name the folder of the shards, or its address in url");
  check.require(!web || shards.directory().empty(), path + ".url",
                "and directory are given both; the shards come from one of them");
  check.require(!web || shards.url().starts_with("http://") || shards.url().starts_with("https://"),
                path + ".url", config::quoted(shards.url()),
                " does not begin with http:// or https://");
  check.require(!web || !shards.cache().empty(), path + ".cache",
                "is missing; with url, name a folder on each host's own disk for the shards");
  check.require(web || shards.ca_file().empty(), path + ".ca_file", "is for url only");
  const bool limited = !shards.cache_size().empty();
  check.require(!limited || !shards.cache().empty(), path + ".cache_size", "needs cache");
  if (!limited) return;
  const std::string size = check.at(path + ".cache_size");
  if (parse_bytes(shards.cache_size(), size) == 0) fail_input(size, "0 bytes hold no shard");
}

void check_source(const Checker& check, const SourceSpec& source, const std::string& path) {
  switch (source.kind_case()) {
    case SourceSpec::kIdx:
      check.require(!source.idx().images().empty(), path + ".idx.images",
                    "is missing; name the file of records");
      check.require(!source.idx().labels().empty(), path + ".idx.labels",
                    "is missing; name the file of labels");
      return;
    case SourceSpec::kCsv:
      return check_csv(check, source.csv(), path + ".csv");
    case SourceSpec::kShards:
      return check_shards(check, source.shards(), path + ".shards");
    case SourceSpec::kPictures:
      check.require(!source.pictures().folder().empty(), path + ".pictures.folder",
                    "is missing; name the folder of the classes");
      return check_picture(check, source.pictures().picture(), path + ".pictures.picture");
    case SourceSpec::kTar:
      check.require(source.tar().path_size() > 0, path + ".tar.path", "is missing; name a file");
      check.require(!source.tar().label().empty(), path + ".tar.label",
                    "is empty; name the ending of labels");
      return check_picture(check, source.tar().picture(), path + ".tar.picture");
    case SourceSpec::kText:
      return check_text(check, source.text(), path + ".text");
    case SourceSpec::kCifar:
      check.require(source.cifar().path_size() > 0, path + ".cifar.path",
                    "is missing; name a file");
      check.require(source.cifar().end() == 0 || source.cifar().end() > source.cifar().begin(),
                    path + ".cifar.end", source.cifar().end(), " is not behind begin, ",
                    source.cifar().begin(), "; write 0 for the last record");
      return;
    case SourceSpec::kTokens:
      return check_tokens(check, source.tokens(), path + ".tokens");
    case SourceSpec::KIND_NOT_SET:
      check.require(false, path, "has no source; ", choices(SourceSpec::descriptor()));
  }
}

void check_standardize(const Checker& check, const StandardizeSpec& spec, const std::string& path) {
  if (spec.by() != StandardizeSpec::GIVEN) {
    check.require(spec.mean_size() == 0 && spec.std_size() == 0, path,
                  "mean and std are for by: GIVEN only");
    return;
  }
  check.require(spec.mean_size() > 0 && spec.mean_size() == spec.std_size(), path,
                "by: GIVEN needs as many numbers in mean as in std, one or one a channel; mean "
                "has ",
                spec.mean_size(), ", std has ", spec.std_size());
  for (int i = 0; i < spec.std_size(); ++i) {
    check.require(spec.std(i) > 0, cat(path, ".std[", i, "]"), spec.std(i),
                  " is not greater than 0");
  }
}

void check_data(const Checker& check, const DataSpec& data) {
  check.require(data.has_train(), "data.train", "is missing; ", choices(SourceSpec::descriptor()));
  check_source(check, data.train(), "data.train");
  if (data.has_test()) check_source(check, data.test(), "data.test");
  if (data.shuffle_window_shards() > 0) {
    const std::string path = "data.shuffle_window_shards";
    check.require(data.train().has_shards(), path,
                  "needs data.train.shards; `peal shard` makes shards of any records");
    check.require(data.shuffle(), path, "needs data.shuffle: true");
  }
  check.require(data.preprocess_size() == 0 || !data.train().has_tokens(), "data.preprocess",
                "is not for tokens, which a model sees as they are; leave it out");
  for (int i = 0; i < data.preprocess_size(); ++i) {
    const PreprocessSpec& step = data.preprocess(i);
    const std::string path = cat("data.preprocess[", i, "]");
    check.require(step.kind_case() != PreprocessSpec::KIND_NOT_SET, path, "says nothing; ",
                  choices(PreprocessSpec::descriptor()));
    if (step.has_standardize()) check_standardize(check, step.standardize(), path + ".standardize");
    if (step.has_one_hot()) {
      check.require(step.one_hot().classes() > 0, path + ".one_hot.classes",
                    "is missing; write the length of the vector, at least 1");
    }
  }
}

void check_model(const Checker& check, const ModelSpec& model) {
  check.require(model.kind_case() != ModelSpec::KIND_NOT_SET, "model", "is missing; ",
                choices(ModelSpec::descriptor()));
  if (!model.has_mlp()) return;
  const MlpSpec& mlp = model.mlp();
  if (mlp.loss() == MlpSpec::SOFTMAX) {
    check.require(mlp.outputs() >= 2, "model.mlp.outputs", mlp.outputs(),
                  " is too small; loss: SOFTMAX needs one output a class, at least 2");
  } else {
    check.require(mlp.outputs() == 1, "model.mlp.outputs", mlp.outputs(),
                  " is not allowed; loss: ", MlpSpec::Loss_Name(mlp.loss()), " needs exactly 1");
  }
}

void check_optimizer(const Checker& check, const OptimizerSpec& optimizer) {
  check.require(optimizer.kind_case() != OptimizerSpec::KIND_NOT_SET, "optimizer", "is missing; ",
                choices(OptimizerSpec::descriptor()));
  check.require(!optimizer.sgd().nesterov() || optimizer.sgd().momentum() > 0,
                "optimizer.sgd.nesterov", "needs optimizer.sgd.momentum greater than 0");
}

// Nearest multiples of `unit` around a batch that is none; 0 is no batch.
std::string nearest(std::int64_t batch, std::int64_t unit) {
  const std::int64_t below = batch / unit * unit;
  const std::int64_t above = below + unit;
  if (above > INT32_MAX) return cat("nearest is ", below);
  if (below == 0) return cat("nearest is ", above);
  return cat("nearest are ", below, " and ", above);
}

void check_compression(const Checker& check, const ParallelSpec& parallel) {
  if (!parallel.has_compression()) return;
  const std::string path = "parallel.compression";
  const CompressionSpec& spec = parallel.compression();
  check.require(spec.kind_case() != CompressionSpec::KIND_NOT_SET, path, "says nothing; ",
                choices(CompressionSpec::descriptor()), ", or leave it out");
  int exponent = 0;
  check.require(std::frexp(spec.f16().scale(), &exponent) == 0.5, path + ".f16.scale",
                spec.f16().scale(), " is no power of two");
  check.require(spec.int8().block() % 4 == 0, path + ".int8.block", spec.int8().block(),
                " is no multiple of 4");
  check.require(!spec.has_int8() || parallel.reduction() != ParallelSpec::RANK_INVARIANT,
                path + ".int8",
                "rounds by rank, so that bits depend on the number of ranks, and "
                "parallel.reduction is RANK_INVARIANT; write parallel.reduction: REPEATABLE or "
                "FAST, or another of f16, bf16, power_sgd");
  check.require(!parallel.shard_optimizer(), "parallel.shard_optimizer",
                "is not there with parallel.compression, whose sums every rank needs whole; leave "
                "one of them out");
}

void check_parallel(const Checker& check, const JobSpec& job, int ranks) {
  const std::int64_t virtual_ranks = job.parallel().virtual_ranks();
  if (virtual_ranks == 0) fail_internal(check.at("parallel.virtual_ranks"), "is not resolved yet");
  check.require(ranks <= virtual_ranks, "parallel.virtual_ranks", ranks, " ranks are more than ",
                virtual_ranks, " virtual ranks; start at most ", virtual_ranks,
                " ranks or raise parallel.virtual_ranks");
  const std::int64_t parts = job.train().accumulate_steps();
  const std::int64_t unit = virtual_ranks * parts;  // at most 2^32
  const std::int64_t batch = job.train().global_batch();
  check.require(unit <= INT32_MAX, "train.accumulate_steps", virtual_ranks, " virtual ranks * ",
                parts, " parts are more than any batch holds");
  check.require(batch % unit == 0, "train.global_batch", batch, " is not a multiple of ", unit,
                " (parallel.virtual_ranks ", virtual_ranks, " * train.accumulate_steps ", parts,
                "); ", nearest(batch, unit));
  const std::string path = check.at("parallel.bucket_size");
  if (parse_bytes(job.parallel().bucket_size(), path) == 0) {
    fail_input(path, "0 bytes hold no gradient; write at least 1KiB");
  }
  check_compression(check, job.parallel());
}

void check_loss_scaling(const Checker& check, const JobSpec& job) {
  const TrainSpec& train = job.train();
  int exponent = 0;
  check.require(std::frexp(train.loss_scale(), &exponent) == 0.5, "train.loss_scale",
                train.loss_scale(), " is no power of two; ",
                std::exp2(std::floor(std::log2(train.loss_scale()))), " is");
  check.require(
      !scales_loss(train) || !job.parallel().has_compression(), "parallel.compression",
      "is not there with a loss scale that adapts (train.loss_scaling), which changes what "
      "it remembers of gradients; leave one of them out");
}

void check_algorithms(const Checker& check, const JobSpec& job) {
  const std::string& digest = job.train().algorithms_digest();
  const bool named = !job.train().algorithms().empty();
  check.require(!named || job.parallel().device() == ParallelSpec::CUDA, "train.algorithms",
                "is for parallel.device: CUDA; a CPU has one way for each product and convolution, "
                "leave it out");
  check.require(digest.empty() || named, "train.algorithms_digest",
                "is of the file in train.algorithms, which is missing; name it, or leave both out");
  const bool hex = digest.find_first_not_of("0123456789abcdef") == std::string::npos;
  check.require(digest.empty() || (digest.size() == 16 && hex), "train.algorithms_digest",
                config::quoted(digest), " is not 16 digits of 0 to 9 and a to f");
}

}  // namespace

bool scales_loss(const TrainSpec& train) {
  if (train.loss_scaling() != TrainSpec::AUTO) return train.loss_scaling() == TrainSpec::DYNAMIC;
  return train.precision() == TrainSpec::F16;
}

void validate_source(const SourceSpec& source, const std::string& path, const std::string& where) {
  const Checker check(where);
  check_ranges(check, source, path + ".");
  check_source(check, source, path);
}

void validate_job(const JobSpec& job, int ranks, const std::string& where) {
  const Checker check(where);
  check_ranges(check, job, "");
  check_data(check, job.data());
  check_model(check, job.model());
  check_optimizer(check, job.optimizer());
  check_parallel(check, job, ranks);
  check_loss_scaling(check, job);
  check_algorithms(check, job);
  check.require(!job.run().directory().empty(), "run.directory", "is empty; name a folder");
  const std::string& metric = job.checkpoint().best_metric();
  check.require(metric.rfind("test_", 0) != 0 || job.data().has_test(), "checkpoint.best_metric",
                config::quoted(metric), " needs data.test");
}

}  // namespace peal
