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
#include "launcher/tune_products.h"

namespace peal {
namespace {

struct Arguments {
  JobArguments job;
  std::string file;  // where to; empty: nowhere
};

void say(const std::string& line) {
  std::puts(line.c_str());
  std::fflush(stdout);
}

void check_there_is_a_choice(const JobSpec& job, const Communicator& comm) {
  if (job.parallel().device() == ParallelSpec::CPU) {
    fail_input("parallel.device",
               "CPU has one way for each matrix product, so there is nothing to choose; "
               "measure where there is a GPU, with parallel.device: CUDA");
  }
  if (comm.world_size() > 1) {
    fail_input("bench products", comm.world_size(),
               " ranks; start one, which measures on one GPU for all, and write into the job "
               "how many ranks there will be, parallel.virtual_ranks");
  }
}

void store(const std::string& file, const ProductChoices& choices) {
  write_file_atomically(file, print_product_choices(choices));
  say(cat("stored in ", file, ": ", choices.size(), " products that take another way than the ",
          "first, digest ", hex(choices.digest())));
}

void bench_products(const Arguments& arguments, JobSpec given, Communicator& comm) {
  check_there_is_a_choice(given, comm);
  given.mutable_train()->clear_products();  // the table that this is to make
  given.mutable_train()->clear_products_digest();
  const bool counted = given.parallel().virtual_ranks() > 0;
  const JobSpec job = job_to_measure(std::move(given), comm, /*steps=*/1);
  const Device device = device_of_rank(job, comm);
  if (!arguments.file.empty())
    const FileWriter attempt(arguments.file);  // told before it takes time
  const std::string library = kernels(device).product_library();
  const std::vector<UsedProduct> products = products_of(job, device);
  say(cat(products.size(), " products in a training pass of ", records_of_pass(job), " records",
          counted ? "" : " (parallel.virtual_ranks is not given: as on one rank)", ", on ",
          library));
  ProductChoices choices;
  if (!arguments.file.empty()) choices = choices_before(arguments.file, library, say);
  const StopSignal signals({SIGINT, SIGTERM});
  const bool all = tune_products(
      products,
      {.device = device,
       .make = [&](const MatmulSpec& spec) { return kernels(device).make_matmul(spec); },
       .timing = {},
       .say = say,
       .stopped = StopSignal::asked},
      choices);
  if (!arguments.file.empty()) store(arguments.file, choices);
  if (!all) say("stopped: products behind the last line were not measured");
}

}  // namespace

void add_bench_products(CLI::App& bench) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = bench.add_subcommand(
      "products", "which of a GPU's ways is quickest for each matrix product of a job");
  add_job_arguments(*command, arguments->job);
  command
      ->add_option("--tune", arguments->file,
                   "store those that are quicker than the first, for jobs with train.products; "
                   "what the file holds of other products stays, but of another kind of GPU or "
                   "another cuBLASLt")
      ->type_name("FILE");
  command->footer(
      "Compiles the plan of a training pass and times each of its products by the first eight\n"
      "algorithms that cuBLASLt prefers for it, and where a bias' gradient comes with the product\n"
      "by eight more that sum it in the product's kernel. The first is what a job takes without a\n"
      "table; another is chosen where it takes 2% less. No data are read. Bits depend on the\n"
      "table, so all ranks get the first rank's, and a run goes on with no other. Ctrl-C stores\n"
      "what is measured.\n"
      "Examples:\n"
      "  peal bench products job.textproto --set parallel.device=CUDA\n"
      "  peal bench products job.textproto --tune h100.products\n"
      "  mpirun -np 8 peal train job.textproto --set train.products=h100.products");
  command->callback([arguments] {
    const JobSpec job = read_job(arguments->job);
    with_ranks(arguments->job.local,
               [&](Communicator& comm) { bench_products(*arguments, job, comm); });
  });
}

}  // namespace peal
