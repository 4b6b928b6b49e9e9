#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <memory>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "launcher/bench.h"
#include "launcher/cli.h"
#include "launcher/job_setup.h"
#include "launcher/rank_device.h"
#include "launcher/stop_signal.h"
#include "launcher/tune_algorithms.h"

namespace peal {
namespace {

struct AlgorithmsArguments {
  JobArguments job;
  std::string file;  // where to; empty: nowhere
  int ways = AlgorithmTiming().most_ways;
};

void say_line(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

void check_there_is_a_choice(const JobSpec& job, const Communicator& comm) {
  if (job.parallel().device() == ParallelSpec::CPU) {
    fail_input("parallel.device",
               "CPU has one way for each product and convolution, so there is nothing to choose; "
               "measure where there is a GPU, with parallel.device: CUDA");
  }
  if (comm.world_size() > 1) {
    fail_input("bench algorithms", comm.world_size(),
               " ranks; start one, which measures on one GPU for all, and write into the job "
               "how many ranks there will be, parallel.virtual_ranks");
  }
}

void store(const std::string& file, const AlgorithmChoices& choices) {
  write_file_atomically(file, print_algorithm_choices(choices));
  say_line(cat("stored in ", file, ": ", choices.size(),
               " that take another way than the first, digest ", hex(choices.digest())));
}

void bench_algorithms(const AlgorithmsArguments& arguments, JobSpec given, Communicator& comm) {
  check_there_is_a_choice(given, comm);
  given.mutable_train()->clear_algorithms();  // the table that this is to make
  given.mutable_train()->clear_algorithms_digest();
  const bool counted = given.parallel().virtual_ranks() > 0;
  const JobSpec job = job_to_measure(std::move(given), comm, /*steps=*/1);
  const Device device = device_of_rank(job, comm);
  if (!arguments.file.empty())
    const FileWriter attempt(arguments.file);  // told before it takes time
  const std::string library = kernels(device).algorithm_library();
  const UsedAlgorithms used = algorithms_of(job, device);
  say_line(cat(used.products.size(), " products and ", used.convolutions.size(),
               " passes of convolutions in a training pass of ", records_of_pass(job), " records",
               counted ? "" : " (parallel.virtual_ranks is not given: as on one rank)", ", on ",
               library));
  AlgorithmChoices choices;
  if (!arguments.file.empty()) choices = choices_before(arguments.file, library, say_line);
  const StopSignal signals({SIGINT, SIGTERM});
  const bool all = tune_algorithms(
      used,
      {.device = device,
       .make_product = [&](const MatmulSpec& spec) { return kernels(device).make_matmul(spec); },
       .make_convolution =
           [&](const Conv2dSpec& spec) { return kernels(device).make_conv2d(spec); },
       .timing = {.most_ways = arguments.ways},
       .say = say_line,
       .stopped = StopSignal::asked},
      choices);
  if (!arguments.file.empty()) store(arguments.file, choices);
  if (!all) say_line("stopped: what comes behind the last line was not measured");
}

}  // namespace

void add_bench_algorithms(CLI::App& bench) {
  auto arguments = std::make_shared<AlgorithmsArguments>();
  CLI::App* command = bench.add_subcommand(
      "algorithms", "which of a GPU's ways is quickest for each product and convolution of a job");
  add_job_arguments(*command, arguments->job);
  command
      ->add_option("--tune", arguments->file,
                   "store those that are quicker than the first, for jobs with train.algorithms; "
                   "what the file holds of others stays, but of another kind of GPU, cuBLASLt or "
                   "cuDNN")
      ->type_name("FILE");
  command
      ->add_option("--ways", arguments->ways,
                   "of each product and pass of a convolution, the first so many")
      ->check(CLI::Range(1, (AlgorithmChoices::kMostAlgorithm + 1) / 2))
      ->capture_default_str();
  command->footer(
      "Compiles the plan of a training pass and times each matrix product in it by the first\n"
      "algorithms that cuBLASLt prefers for it (and where a bias' gradient comes with the product\n"
      "by as many that sum it in the product's kernel), and each pass of a convolution by the\n"
      "first of cuDNN's engines. The very first is what a job takes without a table; another is\n"
      "chosen where it takes 2% less. No data are read. Bits depend on the table, so all ranks "
      "get\n"
      "the first rank's, and a run goes on with no other. Ctrl-C stores what is measured.\n"
      "Examples:\n"
      "  peal bench algorithms job.textproto --set parallel.device=CUDA\n"
      "  peal bench algorithms job.textproto --tune h100.algorithms --ways 16\n"
      "  mpirun -np 8 peal train job.textproto --set train.algorithms=h100.algorithms");
  command->callback([arguments] {
    const JobSpec job = read_job(arguments->job);
    with_ranks(arguments->job.local,
               [&](Communicator& comm) { bench_algorithms(*arguments, job, comm); });
  });
}

}  // namespace peal
