// `peal bench overlap`: which part of the time that sums of gradients take backward hides.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "launcher/bench.h"
#include "launcher/cli.h"
#include "launcher/measure_overlap.h"
#include "launcher/progress.h"
#include "launcher/train.h"

namespace peal {
namespace {

struct OverlapArguments {
  JobArguments job;
  std::int64_t rounds = 15, steps = 5;
  bool json = false;
};

constexpr std::array<const char*, 3> kModes = {"compute only", "overlapped", "not overlapped"};

void report(const OverlapArguments& arguments, const JobSpec& job, const Communicator& comm,
            const OverlapBench& bench, OverlapTimes& times) {
  const double compute = 1e3 * times.median(OverlapMode::compute),
               overlapped = 1e3 * times.median(OverlapMode::overlapped),
               held = 1e3 * times.median(OverlapMode::held);
  const double exposed = held - compute, hidden = held - overlapped;
  const double share = hidden / exposed;
  const bool known = exposed > 0;
  if (arguments.json) {
    const nlohmann::ordered_json line = {
        {"ranks", comm.world_size()},
        {"backend", comm.backend()},
        {"virtual_ranks", job.parallel().virtual_ranks()},
        {"lanes", bench.lanes()},
        {"global_batch", job.train().global_batch()},
        {"reduction", ParallelSpec::Reduction_Name(job.parallel().reduction())},
        {"gradient_bytes", bench.gradient_bytes()},
        {"bucket_size", job.parallel().bucket_size()},
        {"rounds", arguments.rounds},
        {"steps_per_round", arguments.steps},
        {"compute_ms", compute},
        {"overlapped_ms", overlapped},
        {"not_overlapped_ms", held},
        {"hidden_share", known ? nlohmann::ordered_json(share) : nullptr},
        {"speedup", held / overlapped}};
    std::puts(line.dump().c_str());
    return;
  }
  std::printf("# %d ranks, backend %s, global batch %d, gradients %s in buckets of %s\n",
              comm.world_size(), std::string(comm.backend()).c_str(), job.train().global_batch(),
              human_bytes(static_cast<double>(bench.gradient_bytes())).c_str(),
              job.parallel().bucket_size().c_str());
  std::printf("# medians of %lld rounds of %lld steps, modes in turns\n",
              static_cast<long long>(arguments.rounds), static_cast<long long>(arguments.steps));
  std::printf("%-16s %10s %10s %10s\n", "", "ms a step", "quarter", "3 quarters");
  for (const OverlapMode mode : kOverlapModes) {
    std::vector<double>& all = times.of(mode);
    std::printf("%-16s %10.2f %10.2f %10.2f\n", kModes[static_cast<std::size_t>(mode)],
                1e3 * quantile(all, 0.5), 1e3 * quantile(all, 0.25), 1e3 * quantile(all, 0.75));
  }
  std::printf("sums of gradients: %.2f ms after backward, %.2f ms beside it\n", exposed,
              overlapped - compute);
  if (known) {
    std::printf("hidden: %.0f%%; overlapped training is %.2f times as fast\n", 100 * share,
                held / overlapped);
  } else {
    std::puts("hidden: unknown; there is no time to hide, that is less than rounds differ by");
  }
}

void bench_overlap(const OverlapArguments& arguments, const JobSpec& given, Communicator& comm) {
  if (comm.world_size() == 1) {
    fail_input("bench overlap",
               "1 rank sums nothing; start at least 2, such as mpirun -np 2 peal "
               "bench overlap job.textproto");
  }
  constexpr std::int64_t kWarmup = 3;  // steps of each mode
  const std::int64_t most = 2 * (kWarmup + arguments.rounds * arguments.steps);
  JobSpec job = job_to_measure(given, comm, most);
  job.mutable_data()->clear_shuffle_window_shards();  // a window that comes serves one trainer
  const TrainingData data = open_data(job, model_info(job.model()), comm);
  OverlapBench bench(job, comm, data);
  OverlapTimes times;
  for (const OverlapMode mode : kOverlapModes) bench.measure(mode, kWarmup);
  for (std::int64_t round = 0; round < arguments.rounds; ++round) {
    for (const OverlapMode mode : kOverlapModes) {
      times.of(mode).push_back(bench.measure(mode, arguments.steps));
    }
  }
  if (comm.rank() == 0) report(arguments, job, comm, bench, times);
}

}  // namespace

void add_bench_overlap(CLI::App& bench) {
  auto arguments = std::make_shared<OverlapArguments>();
  CLI::App* command = bench.add_subcommand(
      "overlap", "which part of the time that sums of gradients take backward hides");
  add_job_arguments(*command, arguments->job);
  const auto count = [&](const char* name, std::int64_t& value, const char* meaning) {
    command->add_option(name, value, meaning)
        ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 20))
        ->capture_default_str();
  };
  count("--rounds", arguments->rounds, "rounds, in each of which every mode has its turn");
  count("--steps", arguments->steps, "steps of a mode in a round");
  command->add_flag("--json", arguments->json, "print one JSON object");
  command->footer(
      "Three modes: each rank alone with its share of the batch (compute only); as `peal train`\n"
      "runs (overlapped); buckets held until backward has ended (not overlapped, which is\n"
      "parallel.overlap=false). Hidden is (not overlapped - overlapped) / (not overlapped - "
      "compute\n"
      "only). A rank holds the model twice.\n"
      "Example:\n  mpirun -np 2 peal bench overlap job.textproto --set parallel.bucket_size=4MiB");
  command->callback([arguments] {
    const JobSpec job = read_job(arguments->job);
    with_ranks(arguments->job.local,
               [&](Communicator& comm) { bench_overlap(*arguments, job, comm); });
  });
}

}  // namespace peal
