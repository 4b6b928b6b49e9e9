// The command line. Each command lives in a file of its own: <command>_command.cpp.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/config/job.pb.h"

namespace CLI {
class App;
}

namespace peal {

struct RankPlan;

// Parses, runs, prints errors; returns the exit code (design: 0 done, 2 input, 3 peer, 4 numbers,
// 1 anything else). Errors that every rank has are printed by rank 0 alone.
int run_cli(int argc, char** argv);

// Adds a command to `app`; its callback runs the command.
void add_train_command(CLI::App& app);
void add_launch_command(CLI::App& app);
void add_host_agent_command(CLI::App& app);
void add_submit_command(CLI::App& app);
void add_status_command(CLI::App& app);
void add_doctor_command(CLI::App& app);
void add_shard_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_generate_command(CLI::App& app);
void add_inspect_command(CLI::App& app);
void add_bench_command(CLI::App& app);

// Adds `flight` to the command `inspect`.
void add_inspect_flight(CLI::App& inspect);

// Thrown by a command that has done its work and ends with a code that it was told.
struct EndWith {
  int code = 0;
};

// What commands share.
struct JobArguments {
  std::string file;
  std::vector<std::string> set;  // path=value
  int local = 0;                 // > 0: that many ranks as threads of this process
};
void add_job_arguments(CLI::App& app, JobArguments& arguments);
JobSpec read_job(const JobArguments& arguments);

struct TimelineArguments {
  std::string file, steps;
};
void add_timeline_arguments(CLI::App& app, TimelineArguments& arguments);

// --bind, --interface, --env
void add_rank_arguments(CLI::App& command, RankPlan& plan);

// Runs `work` as one MPI rank under mpirun or srun, as `local` threads when asked, or alone. An
// error travels to the other ranks before it is thrown here.
// `options` of ranks over MPI.
void with_ranks(int local, const std::function<void(Communicator&)>& work,
                HostOptions options = {});

// Whether people watch: standard output, or mpirun's where that started this process, is a
// terminal.
bool on_a_terminal();

}  // namespace peal
