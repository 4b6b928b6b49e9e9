#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/error.h"
#include "core/config/job.h"
#include "launcher/bench.h"
#include "launcher/cli.h"
#include "launcher/train.h"
#include "launcher/trainer.h"

namespace peal {
namespace {

struct BenchArguments {
  JobArguments job;
  std::int64_t steps = 200;
  std::int64_t warmup = 20;
  bool json = false;
};

// Since mpirun started, or this process where it runs alone, to a hundredth of a second.
double seconds_since_launch() {
  const pid_t pid = MpiSession::launched() ? getppid() : getpid();
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(file)), {});
  // The name in field 2 may hold anything; the start time is the 20th field behind it.
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::string field;
  for (int i = 0; i < 20; ++i) fields >> field;
  timespec uptime{};
  clock_gettime(CLOCK_BOOTTIME, &uptime);
  return static_cast<double>(uptime.tv_sec) + 1e-9 * static_cast<double>(uptime.tv_nsec) -
         std::atof(field.c_str()) / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::size_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<std::size_t>(usage.ru_maxrss) * 1024;
}

struct Measured {
  double seconds = 0;         // all measured steps
  double median = 0;          // of a step
  double to_first_step = -1;  // from the launch to the end of the first step
};

std::string compression_name(const ParallelSpec& spec) {
  const CompressionSpec& chosen = spec.compression();
  if (chosen.kind_case() == CompressionSpec::KIND_NOT_SET) return "none";
  return CompressionSpec::descriptor()->FindFieldByNumber(chosen.kind_case())->name();
}

void report(const BenchArguments& arguments, const JobSpec& job, Communicator& comm,
            Trainer& trainer, const Measured& measured) {
  const double seconds = measured.seconds;
  const StepTimes& t = trainer.times();
  const double rate = static_cast<double>(arguments.steps) * job.train().global_batch() / seconds;
  const auto percent = [&](double part) { return 100 * part / seconds; };
  const nlohmann::ordered_json line = {
      {"ranks", comm.world_size()},
      {"virtual_ranks", job.parallel().virtual_ranks()},
      {"lanes", trainer.lanes()},
      {"global_batch", job.train().global_batch()},
      {"reduction", ParallelSpec::Reduction_Name(job.parallel().reduction())},
      {"compression", compression_name(job.parallel())},
      {"recompute", TrainSpec::Recompute_Name(job.train().recompute())},
      {"steps", arguments.steps},
      {"samples_per_second", rate},
      {"ms_per_step", 1e3 * seconds / static_cast<double>(arguments.steps)},
      {"median_ms_per_step", 1e3 * measured.median},
      {"time_to_first_step_seconds", measured.to_first_step},
      {"percent_data", percent(t.data)},
      {"percent_forward", percent(t.forward)},
      {"percent_backward", percent(t.backward)},
      {"percent_comm", percent(t.comm)},
      {"percent_optimizer", percent(t.optimizer)},
      {"planned_bytes", trainer.memory().total()},
      {"activation_bytes", trainer.memory().activations},
      {"peak_rss_bytes", peak_resident_bytes()}};
  if (arguments.json) {
    std::puts(line.dump().c_str());
    return;
  }
  for (const auto& [name, value] : line.items()) {
    std::printf("%-20s %s\n", name.c_str(), value.dump().c_str());
  }
}

void bench_train(const BenchArguments& arguments, const JobSpec& given, Communicator& comm) {
  const JobSpec job = job_to_measure(given, comm, arguments.warmup + arguments.steps);
  TrainingData data = open_data(job, model_info(job.model()), comm);
  Trainer trainer(job, comm, std::move(data));
  if (comm.rank() == 0) trainer.initialize_weights();
  trainer.start(/*first_step=*/0);
  std::vector<double> times;
  times.reserve(static_cast<std::size_t>(arguments.steps));
  double begin = 0;
  Measured measured;
  for (std::int64_t step = 0; step < arguments.warmup + arguments.steps; ++step) {
    if (step == arguments.warmup) {
      trainer.times() = {};
      begin = seconds_now();
    }
    const double start = seconds_now();
    trainer.step(step, /*stop_asked=*/false, /*want_norm=*/false);
    if (step >= arguments.warmup) times.push_back(seconds_now() - start);
    if (step == 0) measured.to_first_step = seconds_since_launch();
  }
  trainer.finish();
  measured.seconds = seconds_now() - begin;
  measured.median = quantile(times, 0.5);
  if (comm.rank() == 0) report(arguments, job, comm, trainer, measured);
}

}  // namespace

JobSpec job_to_measure(JobSpec job, Communicator& comm, std::int64_t steps) {
  if (job.parallel().virtual_ranks() == 0) {
    job.mutable_parallel()->set_virtual_ranks(comm.world_size());
  }
  job.mutable_train()->set_max_steps(steps);
  job.mutable_train()->set_epochs(1 << 20);
  together(comm, [&] {
    validate_job(job, comm.world_size(), "job");
    check_model(job);
  });
  job.mutable_data()->clear_test();
  return job;
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double quantile(std::vector<double>& values, double quantile) {
  const double rank = std::ceil(quantile * static_cast<double>(values.size())) - 1;
  const auto at = values.begin() + std::max(static_cast<std::ptrdiff_t>(rank), std::ptrdiff_t{0});
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

void add_bench_command(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "measure");
  bench->require_subcommand(1);
  auto arguments = std::make_shared<BenchArguments>();
  CLI::App* command =
      bench->add_subcommand("train", "speed of a job's steps and where the time goes");
  add_job_arguments(*command, arguments->job);
  command->add_option("--steps", arguments->steps, "steps measured")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1} << 40))
      ->capture_default_str();
  command->add_option("--warmup", arguments->warmup, "steps before")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1} << 40))
      ->capture_default_str();
  command->add_flag("--json", arguments->json, "print one JSON object");
  command->footer(
      "Example:\n  mpirun -np 2 peal bench train job.textproto --set train.global_batch=512");
  command->callback([arguments] {
    const JobSpec job = read_job(arguments->job);
    with_ranks(arguments->job.local,
               [&](Communicator& comm) { bench_train(*arguments, job, comm); });
  });
  add_bench_collectives(*bench);
  add_bench_overlap(*bench);
  add_bench_algorithms(*bench);
  add_bench_scaling(*bench);
}

}  // namespace peal
