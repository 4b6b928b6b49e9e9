#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "core/base/error.h"
#include "core/config/job.h"
#include "launcher/binding.h"
#include "launcher/cli.h"
#include "launcher/elastic.h"
#include "launcher/program.h"
#include "launcher/slurm.h"
#include "launcher/start_ranks.h"
#include "launcher/timeline.h"

namespace peal {
namespace {

struct LaunchArguments {
  RankPlan plan;
  int slots = 0;
  std::string hosts, hostfile, with = "auto";
  bool dry_run = false;
  bool fresh = false;
  ElasticOptions elastic;
  JobArguments job;
  TimelineArguments timeline;
};

bool use_srun(const LaunchArguments& arguments) {
  return arguments.with == "srun" || (arguments.with == "auto" && in_slurm());
}

std::vector<std::string> train_command(const LaunchArguments& arguments) {
  std::vector<std::string> train = {own_path(), "train", arguments.job.file};
  for (const std::string& assignment : arguments.job.set) {
    train.insert(train.end(), {"--set", assignment});
  }
  if (arguments.fresh) train.push_back("--fresh");
  for (const std::string& word : bind_words(arguments.plan)) train.push_back(word);
  const TimelineArguments& timeline = arguments.timeline;
  if (!timeline.file.empty()) train.insert(train.end(), {"--timeline", timeline.file});
  if (!timeline.steps.empty()) {
    parse_timeline_steps(timeline.steps);
    train.insert(train.end(), {"--timeline-steps", timeline.steps});
  }
  return train;
}

std::vector<std::string> with_srun(LaunchArguments& arguments) {
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

void read_hosts(LaunchArguments& arguments) {
  RankPlan& plan = arguments.plan;
  const int slots = arguments.slots > 0 ? arguments.slots : 1;
  if (!arguments.hosts.empty()) plan.hosts = parse_hosts(arguments.hosts, slots);
  if (!arguments.hostfile.empty()) plan.hosts = read_hostfile(arguments.hostfile, slots);
}

std::vector<std::string> with_mpirun(LaunchArguments& arguments) {
  RankPlan& plan = arguments.plan;
  read_hosts(arguments);
  if (plan.hosts.empty()) {
    if (plan.ranks == 0) plan.ranks = arguments.slots;
    if (plan.ranks == 0) {
      fail_input("--ranks", "how many? Give -n, or hosts with --hosts or --hostfile");
    }
  }
  return mpirun_command(plan, train_command(arguments));
}

void check_elastic(const LaunchArguments& arguments) {
  if (arguments.with == "srun") {
    fail_input("--elastic", "ranks are started by mpirun, through ssh; leave out --with srun");
  }
  if (!arguments.timeline.file.empty()) {
    fail_input("--timeline", "is of one start; leave it out with --elastic");
  }
  if (!arguments.plan.hosts.empty() && arguments.plan.ranks > 0) {
    fail_input("--ranks", "with hosts, --elastic says how many");
  }
}

// The virtual ranks of a run that goes on, if the job leaves them open.
int virtual_ranks_of(const LaunchArguments& arguments, const JobSpec& job) {
  const std::filesystem::path before =
      std::filesystem::path(job.run().directory()) / "job.textproto";
  if (job.parallel().virtual_ranks() > 0 || arguments.fresh || !std::filesystem::exists(before)) {
    return job.parallel().virtual_ranks();
  }
  return load_job(before).parallel().virtual_ranks();
}

ElasticRun elastic_run(LaunchArguments& arguments, const JobSpec& job) {
  ElasticRun run;
  run.options = arguments.elastic;
  run.slots = arguments.slots > 0 ? arguments.slots : 1;
  run.hostfile = arguments.hostfile;
  read_hosts(arguments);
  check_elastic(arguments);
  if (in_slurm() && arguments.plan.hosts.empty()) {
    const char* tasks = std::getenv("SLURM_NTASKS_PER_NODE");
    if (arguments.slots == 0 && tasks != nullptr) run.slots = std::max(1, std::atoi(tasks));
    run.allocation = true;
    arguments.plan.hosts = allocated_hosts(run.slots);
  }
  const RankRange range = parse_rank_range(arguments.elastic.range);
  run.plan = arguments.plan;
  run.run_directory = std::filesystem::absolute(job.run().directory());
  run.fresh = arguments.fresh;
  run.virtual_ranks = virtual_ranks_of(arguments, job);
  if (run.virtual_ranks > 0 && range.least > run.virtual_ranks) {
    fail_input("--elastic", "at least ", range.least, " ranks; parallel.virtual_ranks allows ",
               run.virtual_ranks);
  }
  run.train = [arguments](bool fresh, int virtual_ranks) {
    LaunchArguments start = arguments;
    start.fresh = fresh;
    if (virtual_ranks > 0) {
      start.job.set.push_back(cat("parallel.virtual_ranks=", virtual_ranks));
    }
    return train_command(start);
  };
  return run;
}

int launch_with_supervisor(LaunchArguments& arguments, const JobSpec& job) {
  const ElasticRun run = elastic_run(arguments, job);
  if (!arguments.dry_run) return launch_elastic(run);
  std::puts(command_line(first_command(run)).c_str());
  return 0;
}

// What ranks on this host will keep to; throws where they would not fit. What other hosts have is
// known there only.
std::vector<std::string> bindings_here(const RankPlan& plan) {
  std::vector<std::string> lines;
  for (const RankBinding& rank : share_host(plan.bind, plan.ranks, allowed_cpus()).ranks) {
    lines.push_back(cat("# rank ", lines.size(), ": ", describe(rank)));
  }
  return lines;
}

int launch(LaunchArguments& arguments) {
  const JobSpec job = read_job(arguments.job);  // a bad job is told once, before ranks start
  check_environment(arguments.plan.environment);
  if (!arguments.plan.interface.empty()) check_interface(arguments.plan.interface);
  const bool on_this_host = arguments.hosts.empty() && arguments.hostfile.empty() && !in_slurm();
  if (on_this_host && arguments.plan.ranks != 1 && !arguments.dry_run) check_shared_memory();
  if (!arguments.elastic.range.empty()) return launch_with_supervisor(arguments, job);
  const bool srun = use_srun(arguments);
  const std::vector<std::string> words = srun ? with_srun(arguments) : with_mpirun(arguments);
  std::vector<std::string> lines;
  if (on_this_host) lines = bindings_here(arguments.plan);
  if (arguments.dry_run) {
    lines.insert(lines.begin(), command_line(words));
    for (const std::string& line : lines) std::puts(line.c_str());
    return 0;
  }
  check_hosts(arguments.plan.hosts, own_path());
  return run_ranks(words, srun ? "Slurm's srun must be on PATH (Debian package slurm-client)"
                               : "Open MPI's mpirun must be on PATH (Debian package openmpi-bin)");
}

void add_host_arguments(CLI::App& command, LaunchArguments& arguments) {
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
                  "what starts the ranks; auto: srun inside an allocation of Slurm, but "
                  "mpirun with --elastic")
      ->check(CLI::IsMember({"auto", "mpirun", "srun"}))
      ->capture_default_str();
  add_rank_arguments(command, arguments.plan);
}

void add_elastic_arguments(CLI::App& command, ElasticOptions& options) {
  CLI::Option* elastic =
      command
          .add_option(
              "--elastic", options.range,
              "stay beside the ranks and go on with the hosts that remain when some fail; "
              "from MIN to MAX ranks. Inside an allocation of Slurm its hosts are meant, as "
              "they become more; start that with --no-kill")
          ->type_name("MIN:MAX");
  const auto number = [&](const char* name, double& value, const char* help) {
    command.add_option(name, value, help)
        ->needs(elastic)
        ->check(CLI::NonNegativeNumber)
        ->capture_default_str();
  };
  command
      .add_option("--max-restarts", options.max_restarts,
                  "starts after faults, in a row without a new step")
      ->needs(elastic)
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  number("--wait", options.wait, "seconds to wait for MIN ranks");
  number("--host-deadline", options.host_deadline, "seconds until a silent host is out of reach");
  number("--forgive", options.forgive,
         "a host that fails twice within so many seconds is left out");
  number("--settle", options.settle, "seconds between a start and the next with more hosts");
  number("--max-slowdown", options.max_slowdown,
         "a host that long takes so many times as long as the others is left out; 0: never");
}

}  // namespace

void add_rank_arguments(CLI::App& command, RankPlan& plan) {
  command
      .add_option(
          "--bind", plan.bind,
          "what a rank keeps to; auto: its share of its host's cores, near its GPU; its log "
          "says which")
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
  auto arguments = std::make_shared<LaunchArguments>();
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
  add_elastic_arguments(*command, arguments->elastic);
  command->footer(
      "Examples:\n  peal launch -n 2 job.textproto\n"
      "  peal launch --hosts node1:4,node2:4 --interface eth0 job.textproto\n"
      "  peal launch --elastic 4:16 --hostfile hosts --slots 4 job.textproto\n"
      "  salloc --nodes 2 --ntasks-per-node 4 peal launch job.textproto\n"
      "  peal launch -n 8 job.textproto --set train.epochs=3 --dry-run");
  command->callback([arguments] {
    const int code = launch(*arguments);
    if (code != 0) throw EndWith{code};
  });
}

}  // namespace peal
