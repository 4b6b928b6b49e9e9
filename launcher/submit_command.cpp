#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/config/job.h"
#include "launcher/batch_script.h"
#include "launcher/cli.h"
#include "launcher/slurm.h"

namespace peal {
namespace {

struct SubmitArguments {
  JobArguments job;
  BatchJob batch;
  bool dry_run = false, follow = false;
};

bool names_task(const std::string& assignment) {
  return assignment.find("%a") != std::string::npos;
}

// The first number of "4-7" or "2,5", with which a task's overrides are tried.
std::string first_task(const std::string& array) {
  const std::string digits = array.substr(0, array.find_first_not_of("0123456789"));
  if (digits.empty()) {
    fail_input("--array", "'", array, "' does not begin with a number; write it like 0-3 or 1,5");
  }
  return digits;
}

// The job as it will run, but for what each task of an array sets by itself.
JobSpec shared_job(SubmitArguments& arguments) {
  JobSpec job = load_job(arguments.job.file);
  for (const std::string& assignment : arguments.job.set) {
    if (!names_task(assignment)) {
      set_field(job, assignment);
    } else if (arguments.batch.array.empty()) {
      fail_input("--set", assignment, ": %a is the number of a task, and needs --array");
    } else {
      arguments.batch.set.push_back(assignment);
    }
  }
  return job;
}

// What can be known before it waits in a queue.
void check(JobSpec job, const BatchJob& batch, const std::string& file) {
  for (std::string assignment : batch.set) {
    const std::string task = first_task(batch.array);
    for (std::size_t at = 0; (at = assignment.find("%a")) != std::string::npos;) {
      assignment.replace(at, 2, task);
    }
    set_field(job, assignment);
  }
  const int ranks = batch.nodes * batch.ranks_per_node;
  const bool goes_on = std::filesystem::exists(batch.run_directory / "checkpoints");
  // A run that goes on has the number of virtual ranks that it began with.
  if (job.parallel().virtual_ranks() == 0 && goes_on && !batch.fresh) return;
  if (job.parallel().virtual_ranks() == 0) job.mutable_parallel()->set_virtual_ranks(ranks);
  validate_job(job, ranks, file);
}

// In the script stands what a variable is now, not what it will be on the cluster.
void resolve(std::vector<std::string>& environment) {
  check_environment(environment);
  for (std::string& variable : environment) {
    if (variable.find('=') == std::string::npos) {
      variable += cat("=", std::getenv(variable.c_str()));
    }
  }
}

void run(SubmitArguments& arguments) {
  BatchJob& batch = arguments.batch;
  if (arguments.follow && !batch.array.empty()) {
    fail_input("--follow", "follows one job, not the tasks of an --array");
  }
  if (!batch.array.empty()) first_task(batch.array);
  const JobSpec job = shared_job(arguments);
  batch.folder = std::filesystem::current_path();
  batch.run_directory = std::filesystem::absolute(job.run().directory()).lexically_normal();
  batch.job_file = batch.run_directory / "submitted.textproto";
  if (batch.name.empty()) batch.name = "peal-" + batch.run_directory.filename().string();
  check(job, batch, arguments.job.file);
  resolve(batch.plan.environment);
  const std::string script = batch_script(batch);
  if (arguments.dry_run) {
    std::fputs(script.c_str(), stdout);
    return;
  }
  make_folders(batch.run_directory);
  write_file_atomically(batch.job_file, effective_job(job));
  const std::filesystem::path path = batch.run_directory / "job.sbatch";
  write_file_atomically(path, script);
  const std::string id = submit(path);
  const std::string log =
      batch.array.empty() ? batch_log(batch, id) : batch_log(batch, id + "_<task>");
  std::printf("job %s: script %s, log %s\n", id.c_str(), path.c_str(), log.c_str());
  std::fflush(stdout);
  if (!arguments.follow) return;
  const int code = follow(id, log);
  if (code != 0) throw EndWith{code};
}

void add_slurm_arguments(CLI::App& command, BatchJob& batch) {
  command.add_option("--nodes", batch.nodes, "hosts")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command.add_option("--ranks-per-node", batch.ranks_per_node, "ranks on each host")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command.add_option("--cores-per-rank", batch.plan.cores_per_rank, "cores of each rank")
      ->check(CLI::Range(1, 4096));
  command.add_option("--gpus-per-node", batch.gpus_per_node, "GPUs of each host")
      ->check(CLI::Range(1, 64));
  command.add_option("--partition", batch.partition, "partition of the cluster");
  command.add_option("--time", batch.time, "time limit, as sbatch takes it: 30, 1:30:00, 2-0");
  command.add_option("--account", batch.account, "account to charge");
  command.add_option("--array", batch.array,
                     "a job for each number, 0-3: each in a folder task-N of the run directory, "
                     "with N in place of %a in --set");
  command.add_option("--name", batch.name, "name of the job; else peal-<run directory>");
  command.add_flag("--requeue", batch.requeue,
                   "go on in a new job when the time limit, preemption or a lost host ended this");
  command
      .add_option("--stop-before", batch.stop_before,
                  "seconds before the time limit at which the run stops with a checkpoint; "
                  "Slurm may be up to a minute early")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
  command.add_option("--sbatch", batch.sbatch, "any other option: --sbatch=--qos=low")
      ->take_all()
      ->allow_extra_args(false);
}

}  // namespace

void add_submit_command(CLI::App& app) {
  auto arguments = std::make_shared<SubmitArguments>();
  arguments->batch.stop_before = 60;
  CLI::App* command = app.add_subcommand(
      "submit", "write a batch script into the run directory and submit it to Slurm");
  command->add_option("job", arguments->job.file, "job description (text format)")->required();
  command->add_option("--set", arguments->job.set, "override a field, path=value")
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--fresh", arguments->batch.fresh, "forget what the run directory holds");
  add_slurm_arguments(*command, arguments->batch);
  add_rank_arguments(*command, arguments->batch.plan);
  command->add_flag("--dry-run", arguments->dry_run, "print the script and do nothing");
  command->add_flag("--follow", arguments->follow,
                    "show the run's progress until it ends, and end with its exit code; Ctrl-C "
                    "ends the showing alone");
  command->footer(
      "The ranks run under srun. At the time limit, preemption and scancel they write a "
      "checkpoint\n"
      "and end; the same command, or --requeue, goes on from there.\n"
      "Examples:\n"
      "  peal submit job.textproto --nodes 2 --ranks-per-node 4 --time 2:00:00 --requeue --follow\n"
      "  peal submit job.textproto --array 1-5 --set train.seed=%a --dry-run");
  command->callback([arguments] { run(*arguments); });
}

}  // namespace peal
