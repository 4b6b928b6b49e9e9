#include <CLI/CLI.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>

#include "core/base/error.h"
#include "core/config/job.h"
#include "launcher/cli.h"
#include "launcher/job_setup.h"
#include "launcher/shard_run.h"
#include "launcher/stop_signal.h"
#include "launcher/train.h"

namespace peal {
namespace {

struct ShardArguments {
  JobArguments job;
  std::string out;
  std::string source = "train";
  std::int64_t count = 0;
  std::string size;
  bool fresh = false;
  bool verify = false;
};

ShardRun make_run(const ShardArguments& arguments) {
  const JobSpec job = read_job(arguments.job);
  const bool train = arguments.source == "train";
  ShardRun run{.source = train ? job.data().train() : job.data().test(),
               .out = arguments.out,
               .fresh = arguments.fresh,
               .terminal = on_a_terminal()};
  const std::string path = "data." + arguments.source;
  validate_source(run.source, path, arguments.job.file);
  if (run.source.has_tokens() && job.model().kind_case() != ModelSpec::KIND_NOT_SET) {
    run.source = source_for(run.source, model_info(job.model()), path);
  } else if (run.source.has_tokens() && run.source.tokens().length() == 0) {
    fail_input(path + ".tokens.length", "is missing; without a model it must be given");
  }
  run.options.count = arguments.count;
  if (!arguments.size.empty()) run.options.bytes_per_shard = parse_bytes(arguments.size, "--size");
  return run;
}

std::string rounded_seconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f s", seconds);
  return text;
}

std::string last_line(const std::string& out, const ShardResult& result, double seconds) {
  std::string text = cat(out, ": ", result.records, " records in ", result.shards, " shards");
  if (result.kept > 0) text += cat(", ", result.kept, " of them there before");
  if (result.skipped > 0) text += cat(", ", result.skipped, " corrupt ones skipped (skipped.txt)");
  return cat(text, ", ", rounded_seconds(seconds));
}

// False when stopped.
bool cut(const ShardArguments& arguments, Communicator& comm) {
  const auto start = std::chrono::steady_clock::now();
  ShardRun run;
  together(comm, [&] { run = make_run(arguments); });
  const ShardResult result = make_shards(run, comm);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (comm.rank() != 0) return result.finished;
  if (result.finished) {
    std::puts(last_line(arguments.out, result, seconds.count()).c_str());
  } else if (result.shards == 0) {
    std::puts(cat(arguments.out, ": stopped while records were checked").c_str());
  } else {
    std::puts(cat(arguments.out, ": stopped with ", result.kept + result.written, " of ",
                  result.shards, " shards; the same command goes on")
                  .c_str());
  }
  return result.finished;
}

void verify(const ShardArguments& arguments, Communicator& comm) {
  const auto records = verify_on_ranks(arguments.out, comm, on_a_terminal());
  if (comm.rank() != 0) return;
  std::puts(records
                ? cat(arguments.out, ": ", *records, " records, every checksum is right").c_str()
                : cat(arguments.out, ": stopped before all was verified").c_str());
}

}  // namespace

void add_shard_command(CLI::App& app) {
  auto arguments = std::make_shared<ShardArguments>();
  CLI::App* command = app.add_subcommand(
      "shard", "cut a job's records into shard files, or verify them; on all ranks under mpirun");
  command->add_option("job", arguments->job.file, "job whose data source is cut");
  command->add_option("--set", arguments->job.set, "override a field, path=value")
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option("--local", arguments->job.local,
                   "run this many ranks as threads of this process")
      ->check(CLI::Range(1, 1024));
  command->add_option("-o,--out", arguments->out, "folder of the shards")->required();
  command->add_option("--source", arguments->source, "which records of the job")
      ->check(CLI::IsMember({"train", "test"}))
      ->capture_default_str();
  auto* count = command->add_option("--count", arguments->count, "number of shards")
                    ->check(CLI::Range(std::int64_t{1}, std::int64_t{100000}));
  command->add_option("--size", arguments->size, "largest size of a shard, such as 64MiB")
      ->excludes(count);
  command->add_flag("--fresh", arguments->fresh, "remove the shards that the folder holds");
  command->add_flag("--verify", arguments->verify, "read everything back and compare checksums");
  command->footer(
      "Stopped or killed, it goes on with the shards that are complete when the same command is\n"
      "given again, on any number of ranks; the shards are the same to the bit. One run\n"
      "at a time works in a folder.\n"
      "Examples:\n"
      "  peal shard job.textproto --count 8 --out shards/train --verify\n"
      "  mpirun -np 4 peal shard job.textproto --size 256MiB --out shards/train\n"
      "  peal shard --verify --out shards/train --local 2");
  command->callback([arguments] {
    if (arguments->job.file.empty() && !arguments->verify) {
      fail_input("shard", "give a job to cut, or --verify to check shards that exist");
    }
    if (!arguments->job.file.empty() && arguments->count == 0 && arguments->size.empty()) {
      fail_input("shard", "give --count or --size");
    }
    StopSignal signals({SIGINT, SIGTERM, SIGUSR1});
    with_ranks(arguments->job.local, [&](Communicator& comm) {
      const bool finished = arguments->job.file.empty() || cut(*arguments, comm);
      if (finished && arguments->verify) verify(*arguments, comm);
    });
    signals.over();
  });
}

}  // namespace peal
