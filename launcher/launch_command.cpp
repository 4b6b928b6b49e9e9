#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <thread>

#include "core/base/error.h"
#include "launcher/cli.h"
#include "launcher/timeline.h"

namespace peal {
namespace {

std::vector<std::string> mpirun_command(int ranks, const std::vector<std::string>& train) {
  std::vector<std::string> command = {"mpirun", "-np", std::to_string(ranks)};
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (ranks > cores) {
    command.push_back("--oversubscribe");
  } else {
    command.insert(command.end(), {"--bind-to", "core"});
  }
  if (geteuid() == 0) command.push_back("--allow-run-as-root");
  // Ctrl-C: time to finish a step and write a checkpoint before mpirun kills the ranks.
  command.insert(command.end(), {"--mca", "odls_base_sigkill_timeout", "60"});
  // Containers forbid the system call behind this; Peal's own shared memory does not need it.
  command.insert(command.end(), {"--mca", "btl_vader_single_copy_mechanism", "none"});
  command.push_back(std::filesystem::read_symlink("/proc/self/exe").string());
  command.push_back("train");
  command.insert(command.end(), train.begin(), train.end());
  return command;
}

std::string quoted(const std::string& word) {
  const std::string plain =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_=./:,+@%";
  if (!word.empty() && word.find_first_not_of(plain) == std::string::npos) return word;
  std::string out = "'";
  for (const char c : word) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

[[noreturn]] void become(const std::vector<std::string>& command) {
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  execvp(words[0], words.data());
  fail_input(command[0], "cannot start: ", std::strerror(errno),
             "; Open MPI's mpirun must be on PATH (Debian package openmpi-bin)");
}

}  // namespace

void add_launch_command(CLI::App& app) {
  struct Arguments {
    int ranks = 0;
    bool dry_run = false;
    bool fresh = false;
    JobArguments job;
    TimelineArguments timeline;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("launch", "start mpirun with `peal train` for you");
  command->add_option("-n,--ranks", arguments->ranks, "number of ranks")
      ->required()
      ->check(CLI::Range(1, 1 << 20));
  command->add_flag("--dry-run", arguments->dry_run, "print the command and do nothing");
  command->add_option("job", arguments->job.file, "job description (text format)")->required();
  command->add_option("--set", arguments->job.set, "override a field, path=value")
      ->take_all()
      ->allow_extra_args(false);
  command->add_flag("--fresh", arguments->fresh, "forget what the run directory holds");
  add_timeline_arguments(*command, arguments->timeline);
  command->footer(
      "Examples:\n  peal launch -n 2 job.textproto\n"
      "  peal launch -n 8 job.textproto --set train.epochs=3 --dry-run");
  command->callback([arguments] {
    read_job(arguments->job);  // a bad job is told once, before ranks start
    std::vector<std::string> train = {arguments->job.file};
    for (const std::string& assignment : arguments->job.set) {
      train.insert(train.end(), {"--set", assignment});
    }
    if (arguments->fresh) train.push_back("--fresh");
    const TimelineArguments& timeline = arguments->timeline;
    if (!timeline.file.empty()) train.insert(train.end(), {"--timeline", timeline.file});
    if (!timeline.steps.empty()) {
      parse_timeline_steps(timeline.steps);
      train.insert(train.end(), {"--timeline-steps", timeline.steps});
    }
    const std::vector<std::string> words = mpirun_command(arguments->ranks, train);
    if (!arguments->dry_run) become(words);
    std::string line;
    for (const std::string& word : words) line += (line.empty() ? "" : " ") + quoted(word);
    std::puts(line.c_str());
  });
}

}  // namespace peal
