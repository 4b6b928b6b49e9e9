#include <CLI/CLI.hpp>
#include <memory>
#include <optional>

#include "core/base/error.h"
#include "launcher/binding.h"
#include "launcher/cli.h"
#include "launcher/train.h"

namespace peal {
void add_train_command(CLI::App& app) {
  struct Arguments {
    JobArguments job;
    bool fresh = false;
    std::string bind = "none";
    TimelineArguments timeline;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("train", "train a job: as one MPI rank under mpirun or srun, or alone");
  add_job_arguments(*command, arguments->job);
  command->add_flag("--fresh", arguments->fresh, "forget what the run directory holds");
  command
      ->add_option(
          "--bind", arguments->bind,
          "keep to a share of this host's cores, as `peal launch` asks for; auto: as equal "
          "as can be")
      ->check(CLI::IsMember({"auto", "core", "socket", "numa", "none"}))
      ->capture_default_str()
      ->excludes("--local");
  add_timeline_arguments(*command, arguments->timeline);
  command->footer(
      "A run that was stopped or killed goes on from its newest checkpoint when the same command\n"
      "is given again, on any number of ranks.\n"
      "Examples:\n"
      "  peal train examples/fashion_mnist_cnn.textproto\n"
      "  mpirun -np 2 peal train job.textproto --set train.global_batch=128 --fresh\n"
      "  peal train job.textproto --local 4\n"
      "  mpirun -np 2 peal train job.textproto --timeline trace.json --timeline-steps 101:110");
  command->callback([arguments] {
    const JobSpec job = read_job(arguments->job);
    TrainOptions options{.fresh = arguments->fresh,
                         .terminal = on_a_terminal(),
                         .timeline = arguments->timeline.file};
    if (!arguments->timeline.steps.empty()) {
      options.timeline_steps = parse_timeline_steps(arguments->timeline.steps);
    }
    std::optional<Error> refused;  // told when all ranks can hear of it
    try {
      options.binding = bind_this_rank(arguments->bind);
    } catch (const Error& error) {
      refused = error;
    }
    with_ranks(arguments->job.local, [&](Communicator& comm) {
      together(comm, [&] {
        if (refused) throw *refused;
      });
      train(job, comm, options);
    });
  });
}

}  // namespace peal
