#include "launcher/cli.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <memory>

#include "core/base/error.h"
#include "core/base/log.h"
#include "core/config/job.h"
#include "launcher/rank_line.h"
#include "launcher/signal_stack.h"
#include "launcher/version.h"

namespace peal {
namespace {

// This process's rank as mpirun or srun says it, known before MPI starts; 0 when alone.
int rank_from_environment() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}) {
    if (const char* value = std::getenv(name)) return std::atoi(value);
  }
  return 0;
}

// One line for people: rank 0 speaks for all, another rank only of what it alone has seen.
void print_error(const std::string& message, bool everybody_has_it) {
  const int rank = rank_from_environment();
  log::stop();
  if (rank != 0 && everybody_has_it) return;
  const std::string prefix = rank == 0 ? "peal: " : cat("peal: rank ", rank, ": ");
  std::fputs((prefix + message + "\n").c_str(), stderr);
}

// Tasks of srun that know nothing of one another would all be rank 0 of the same run.
void refuse_tasks_without_pmix() {
  const char* tasks = std::getenv("SLURM_STEP_NUM_TASKS");
  if (tasks == nullptr || std::atoi(tasks) < 2) return;
  fail_input("srun", "it has started ", tasks,
             " tasks without PMIx, so that they do not find one "
             "another; start them with srun --mpi=pmix");
}

}  // namespace

void add_job_arguments(CLI::App& app, JobArguments& arguments) {
  app.add_option("job", arguments.file, "job description (text format)")->required();
  app.add_option("--set", arguments.set,
                 "override a field, path=value; may be given again (fields: peal help-job)")
      ->type_name("PATH=VALUE")
      ->take_all()
      ->allow_extra_args(false);
  app.add_option("--local", arguments.local, "run this many ranks as threads of this process")
      ->check(CLI::Range(1, 1024));
}

void add_timeline_arguments(CLI::App& app, TimelineArguments& arguments) {
  CLI::Option* file = app.add_option("--timeline", arguments.file,
                                     "write what all ranks do when, as a trace that Perfetto and "
                                     "chrome://tracing open")
                          ->type_name("FILE");
  app.add_option("--timeline-steps", arguments.steps,
                 "steps to record, counted from 1; else the first 100 of this start")
      ->type_name("A:B")
      ->needs(file);
}

JobSpec read_job(const JobArguments& arguments) {
  JobSpec job = load_job(arguments.file);
  for (const std::string& assignment : arguments.set) set_field(job, assignment);
  return job;
}

void with_ranks(int local, const std::function<void(Communicator&)>& work, HostOptions options) {
  const auto guarded = [&](Communicator& comm) {
    try {
      work(comm);
    } catch (const Error& error) {
      comm.abort(error.what(), exit_code(error.kind()));
      throw;
    } catch (const std::exception& error) {
      comm.abort(error.what(), exit_code(ErrorKind::internal));
      throw;
    }
  };
  if (local > 0) {
    run_local_ranks(local, guarded);
  } else if (MpiSession::launched()) {
    options.warn = log::warn;
    const RankLine line;
    // Left alive on an error: finalising MPI would wait for peers that may be gone.
    auto* session = new MpiSession;
    try {
      const std::unique_ptr<Communicator> comm = make_host_communicator(options);
      guarded(*comm);
      line.say_end(0);
    } catch (const Error& error) {
      line.say_end(exit_code(error.kind()));
      print_error(error.what(), error.kind() != ErrorKind::peer);
      MpiSession::exit_process(exit_code(error.kind()));
    } catch (const std::exception& error) {
      line.say_end(exit_code(ErrorKind::internal));
      print_error(error.what(), false);
      MpiSession::exit_process(exit_code(ErrorKind::internal));
    }
    delete session;
  } else {
    refuse_tasks_without_pmix();
    const std::unique_ptr<Communicator> comm = make_single_communicator();
    guarded(*comm);
  }
}

// Under mpirun a rank's standard output is a terminal of mpirun's making wherever mpirun writes to;
// what counts is the one of the process that started this one.
bool on_a_terminal() {
  if (!MpiSession::launched()) return isatty(STDOUT_FILENO) != 0;
  std::error_code none;
  const std::string target =
      std::filesystem::read_symlink("/proc/" + std::to_string(getppid()) + "/fd/1", none).string();
  return target.starts_with("/dev/pts/") || target.starts_with("/dev/tty");
}

int run_cli(int argc, char** argv) {
  use_signal_stack();
  CLI::App app{
      "Peal: data-parallel training on MPI clusters, the same bits at any number of ranks"};
  app.set_version_flag("--version", version());
  app.require_subcommand(1);
  app.footer(
      "Examples:\n"
      "  peal train job.textproto --set train.epochs=3\n"
      "  mpirun -np 4 peal train job.textproto\n"
      "  peal launch -n 4 job.textproto\n"
      "  peal doctor --hosts node1:4,node2:4\n"
      "  peal submit --nodes 2 --ranks-per-node 4 job.textproto\n"
      "  peal inspect --hash runs/fashion_mnist\n"
      "Exit codes: 0 done, 2 the input is wrong, 3 a peer or the network failed,\n"
      "4 the numbers went wrong, 1 anything else.");
  add_train_command(app);
  add_launch_command(app);
  add_host_agent_command(app);
  add_submit_command(app);
  add_status_command(app);
  add_doctor_command(app);
  add_shard_command(app);
  add_eval_command(app);
  add_generate_command(app);
  add_inspect_command(app);
  add_bench_command(app);
  app.add_subcommand("help-job", "list every field of a job with its default and meaning")
      ->callback([] { std::fputs(job_help().c_str(), stdout); });
  try {
    app.parse(argc, argv);
    return 0;
  } catch (const EndWith& end) {
    return end.code;
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0 || rank_from_environment() == 0) app.exit(error);
    return error.get_exit_code() == 0 ? 0 : exit_code(ErrorKind::input);
  } catch (const Error& error) {
    print_error(error.what(), true);
    return exit_code(error.kind());
  } catch (const std::exception& error) {
    print_error(error.what(), true);
    return exit_code(ErrorKind::internal);
  }
}

}  // namespace peal
