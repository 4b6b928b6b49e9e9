#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "core/base/error.h"
#include "launcher/cli.h"
#include "launcher/program.h"
#include "launcher/start_ranks.h"
#include "launcher/timeline.h"

namespace peal {
namespace {

struct Arguments {
  RankPlan plan;
  int slots = 0;
  std::string hosts, hostfile, with = "auto";
  bool dry_run = false;
  bool fresh = false;
  JobArguments job;
  TimelineArguments timeline;
};

bool use_srun(const Arguments& arguments) {
  return arguments.with == "srun" || (arguments.with == "auto" && in_slurm());
}

std::vector<std::string> train_command(const Arguments& arguments) {
  std::vector<std::string> train = {own_path(), "train", arguments.job.file};
  for (const std::string& assignment : arguments.job.set) {
    train.insert(train.end(), {"--set", assignment});
  }
  if (arguments.fresh) train.push_back("--fresh");
  const TimelineArguments& timeline = arguments.timeline;
  if (!timeline.file.empty()) train.insert(train.end(), {"--timeline", timeline.file});
  if (!timeline.steps.empty()) {
    parse_timeline_steps(timeline.steps);
    train.insert(train.end(), {"--timeline-steps", timeline.steps});
  }
  return train;
}

std::vector<std::string> with_srun(Arguments& arguments) {
  if (!in_slurm()) {
    fail_input("--with srun",
               "this is no allocation of Slurm; `peal submit` asks for one, or run "
               "this inside salloc");
  }
  if (!arguments.hosts.empty() || !arguments.hostfile.empty()) {
    fail_input("--hosts",
               "Slurm has chosen the hosts of this allocation; leave it out, or give "
               "--with mpirun");
  }
  arguments.plan.ranks_per_host = arguments.slots;
  return srun_command(arguments.plan, train_command(arguments));
}

std::vector<std::string> with_mpirun(Arguments& arguments) {
  RankPlan& plan = arguments.plan;
  const int slots = arguments.slots > 0 ? arguments.slots : 1;
  if (!arguments.hosts.empty()) plan.hosts = parse_hosts(arguments.hosts, slots);
  if (!arguments.hostfile.empty()) plan.hosts = read_hostfile(arguments.hostfile, slots);
  if (plan.hosts.empty()) {
    if (plan.ranks == 0) plan.ranks = arguments.slots;
    if (plan.ranks == 0) {
      fail_input("--ranks", "how many? Give -n, or hosts with --hosts or --hostfile");
    }
  }
  return mpirun_command(plan, train_command(arguments));
}

int launch(Arguments& arguments) {
  read_job(arguments.job);  // a bad job is told once, before ranks start
  check_environment(arguments.plan.environment);
  if (!arguments.plan.interface.empty()) check_interface(arguments.plan.interface);
  const bool srun = use_srun(arguments);
  const std::vector<std::string> words = srun ? with_srun(arguments) : with_mpirun(arguments);
  if (arguments.dry_run) {
    std::puts(command_line(words).c_str());
    return 0;
  }
  check_hosts(arguments.plan.hosts, own_path());
  return run_ranks(words, srun ? "Slurm's srun must be on PATH (Debian package slurm-client)"
                               : "Open MPI's mpirun must be on PATH (Debian package openmpi-bin)");
}

void add_host_arguments(CLI::App& command, Arguments& arguments) {
  CLI::Option* hosts = command
                           .add_option("--hosts", arguments.hosts,
                                       "hosts and how many ranks each takes, reached by ssh")
                           ->type_name("A:N,B:N");
  command.add_option("--hostfile", arguments.hostfile, "the same, one a line: `a slots=2`")
      ->excludes(hosts);
  command.add_option("--slots", arguments.slots, "ranks on every host that does not say; else 1")
      ->check(CLI::Range(1, 4096));
  command
      .add_option("--with", arguments.with,
                  "what starts the ranks; auto: srun inside an allocation of Slurm")
      ->check(CLI::IsMember({"auto", "mpirun", "srun"}))
      ->capture_default_str();
  add_rank_arguments(command, arguments.plan);
}

}  // namespace

void add_rank_arguments(CLI::App& command, RankPlan& plan) {
  command
      .add_option("--bind", plan.bind,
                  "what a rank keeps to; auto: a core each where that is known to fit")
      ->check(CLI::IsMember({"auto", "core", "socket", "numa", "none"}))
      ->capture_default_str();
  command.add_option("--interface", plan.interface,
                     "network card or network (10.0.0.0/24) between hosts; else MPI chooses");
  command.add_option("--env", plan.environment, "pass a variable to the ranks; may be given again")
      ->type_name("NAME[=VALUE]")
      ->take_all()
      ->allow_extra_args(false);
}

void add_launch_command(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand(
      "launch", "start ranks with `peal train`: mpirun, or srun inside an allocation of Slurm");
  command->add_option("-n,--ranks", arguments->plan.ranks, "number of ranks; else one each slot")
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--dry-run", arguments->dry_run, "print the command and do nothing");
  command->add_option("job", arguments->job.file, "job description (text format)")->required();
  command->add_option("--set", arguments->job.set, "override a field, path=value")
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--fresh", arguments->fresh, "forget what the run directory holds");
  add_host_arguments(*command, *arguments);
  add_timeline_arguments(*command, arguments->timeline);
  command->footer(
      "Examples:\n  peal launch -n 2 job.textproto\n"
      "  peal launch --hosts node1:4,node2:4 --interface eth0 job.textproto\n"
      "  salloc --nodes 2 --ntasks-per-node 4 peal launch job.textproto\n"
      "  peal launch -n 8 job.textproto --set train.epochs=3 --dry-run");
  command->callback([arguments] {
    const int code = launch(*arguments);
    if (code != 0) throw EndWith{code};
  });
}

}  // namespace peal
