#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/config/job.h"
#include "core/data/shard.h"
#include "core/graph/plan.h"
#include "core/state/checkpoint.h"
#include "launcher/cli.h"
#include "launcher/evaluation.h"
#include "models/model.h"

namespace peal {
namespace {

void print(const std::string& line) {
  std::puts(line.c_str());
}

void inspect_checkpoint(const std::string& path, bool hash_only) {
  const Checkpoint checkpoint = Checkpoint::open(path);
  if (hash_only) return print(hex(checkpoint.weights_hash()));
  const CheckpointInfo& info = checkpoint.info();
  print(cat("checkpoint ", checkpoint.path().string()));
  print(cat("step ", info.step, ", epoch ", info.epoch, ", job ", hex(info.job_hash)));
  for (const auto& [name, value] : info.metrics) print(cat(name, " ", value));
  const auto list = [](const char* title, const std::vector<NamedTensor>& tensors) {
    std::size_t bytes = 0;
    for (const NamedTensor& t : tensors) bytes += t.tensor.bytes();
    print(cat(title, ": ", tensors.size(), " tensors, ", human_bytes(static_cast<double>(bytes))));
    for (const NamedTensor& t : tensors) {
      print(cat("  ", t.name, " ", name_of(t.tensor.dtype), " ", t.tensor.shape));
    }
  };
  list("weights", checkpoint.weights());
  list("optimizer", checkpoint.optimizer());
  print(cat("hash of all weights ", hex(checkpoint.weights_hash())));
}

void inspect_shard_file(const std::string& path) {
  const ShardInfo info = inspect_shard(path);
  print(cat("shard ", path, ": ", info.records, " records of ", name_of(info.dtype), " ",
            info.record_shape, ", ", human_bytes(static_cast<double>(info.bytes))));
}

void inspect_job(JobSpec job) {
  if (job.parallel().virtual_ranks() == 0) job.mutable_parallel()->set_virtual_ranks(1);
  validate_job(job, 1, "job");
  print(effective_job(job));
  Graph graph;
  build_model(job.model(), 1, graph);
  add_stop_slot(graph);
  const ParameterTable table = make_parameter_table(graph);
  std::int64_t values = 0;
  print("# parameters, in the order in which backward finishes their gradients:");
  for (const ArenaEntry& e : table.parameters) {
    print(cat("#   ", e.name, " ", e.shape));
    values += e.shape.numel();
  }
  print(cat("# ", values, " values; job ", hex(job_hash(job))));
}

}  // namespace

void add_inspect_command(CLI::App& app) {
  struct Arguments {
    JobArguments job;
    bool hash = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("inspect", "say what a checkpoint, run directory, shard or job holds");
  command->add_option("path", arguments->job.file, "checkpoint, run directory, shard or job");
  command->add_flag("--hash", arguments->hash, "print one line: a hash of all weights");
  command->add_option("--set", arguments->job.set, "for a job: override a field, path=value")
      ->take_all()
      ->allow_extra_args(false);
  command->require_subcommand(0, 1);
  add_inspect_flight(*command);
  command->footer(
      "Examples:\n  peal inspect --hash runs/fashion_mnist\n"
      "  peal inspect shards/shard-00000-of-00008.peal\n  peal inspect job.textproto\n"
      "  peal inspect flight runs/fashion_mnist");
  command->callback([command, arguments] {
    if (!command->get_subcommands().empty()) return;
    if (arguments->job.file.empty()) throw CLI::RequiredError("path");
    const std::filesystem::path path = arguments->job.file;
    const bool checkpoint = std::filesystem::is_directory(path) ||
                            path.extension() == ".safetensors" || arguments->hash;
    if (checkpoint) return inspect_checkpoint(path, arguments->hash);
    if (is_shard(path)) return inspect_shard_file(path);
    inspect_job(read_job(arguments->job));
  });
}

}  // namespace peal
