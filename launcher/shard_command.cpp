#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "core/base/error.h"
#include "core/data/shard.h"
#include "launcher/cli.h"
#include "launcher/job_setup.h"

namespace peal {
namespace {

struct Arguments {
  JobArguments job;
  std::string out;
  std::string source = "train";
  std::int64_t count = 0;
  std::string size;
  bool verify = false;
};

// Percent on a terminal, silence elsewhere: the last line tells all.
std::function<void(std::int64_t, std::int64_t)> percent(const char* action) {
  if (isatty(STDOUT_FILENO) == 0) return {};
  return [action](std::int64_t done, std::int64_t all) {
    std::printf("\r%s %lld%%\033[K", action,
                static_cast<long long>(all > 0 ? done * 100 / all : 100));
    if (done == all) std::fputs("\r\033[K", stdout);
    std::fflush(stdout);
  };
}

void cut(const Arguments& arguments) {
  const JobSpec job = read_job(arguments.job);
  const bool train = arguments.source == "train";
  const std::shared_ptr<Dataset> dataset =
      open_source(train ? job.data().train() : job.data().test());
  ShardOptions options;
  options.count = arguments.count;
  if (!arguments.size.empty()) options.bytes_per_shard = parse_bytes(arguments.size, "--size");
  options.progress = percent("writing");
  write_shards(*dataset, arguments.out, options);
}

}  // namespace

void add_shard_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("shard", "cut a job's records into shard files, or verify them");
  command->add_option("job", arguments->job.file, "job whose data source is cut");
  command->add_option("--set", arguments->job.set, "override a field, path=value")
      ->take_all()
      ->allow_extra_args(false);
  command->add_option("-o,--out", arguments->out, "folder of the shards")->required();
  command->add_option("--source", arguments->source, "which records of the job")
      ->check(CLI::IsMember({"train", "test"}))
      ->capture_default_str();
  auto* count = command->add_option("--count", arguments->count, "number of shards")
                    ->check(CLI::Range(std::int64_t{1}, std::int64_t{100000}));
  command->add_option("--size", arguments->size, "largest size of a shard, such as 64MiB")
      ->excludes(count);
  command->add_flag("--verify", arguments->verify, "read everything back and compare checksums");
  command->footer(
      "Examples:\n  peal shard job.textproto --count 8 --out shards/train --verify\n"
      "  peal shard --verify --out shards/train");
  command->callback([arguments] {
    if (arguments->job.file.empty() && !arguments->verify) {
      fail_input("shard", "give a job to cut, or --verify to check shards that exist");
    }
    if (!arguments->job.file.empty()) {
      if (arguments->count == 0 && arguments->size.empty()) {
        fail_input("shard", "give --count or --size");
      }
      cut(*arguments);
    }
    const std::int64_t records = arguments->verify
                                     ? verify_shards(arguments->out, percent("verifying"))
                                     : open_shards(arguments->out)->size();
    std::puts(cat(arguments->out, ": ", records, " records",
                  arguments->verify ? ", every checksum is right" : "")
                  .c_str());
  });
}

}  // namespace peal
