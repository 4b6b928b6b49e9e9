#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <memory>

#include "core/base/error.h"
#include "launcher/cli.h"
#include "launcher/status.h"

namespace peal {
namespace {

void row(const char* name, const std::string& text) {
  std::printf("%-11s %s\n", name, text.c_str());
}

std::string rounded(double value, int digits) {
  char out[64];
  std::snprintf(out, sizeof out, "%.*f", digits, value);
  return out;
}

std::string date(double seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm parts{};
  localtime_r(&time, &parts);
  char out[32];
  std::strftime(out, sizeof out, "%Y-%m-%d %H:%M:%S", &parts);
  return out;
}

// The newest whole checkpoint's name, as it lies in the run directory: "step-000001200".
std::string newest_checkpoint(const std::filesystem::path& run_directory) {
  std::string newest;
  std::error_code none;
  for (const auto& entry :
       std::filesystem::directory_iterator(run_directory / "checkpoints", none)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("step-")) newest = std::max(newest, name);
  }
  return newest;
}

void print_status(const std::filesystem::path& run_directory, const RunStatus& status) {
  row("run", run_directory.string());
  row("state", status.state + (status.error.empty() ? "" : ": " + status.error));
  row("step", status.step == 0 ? "none finished yet"
                               : cat(status.step, " of ", status.steps, ", epoch ", status.epoch,
                                     " of ", status.epochs));
  if (status.loss >= 0) row("loss", rounded(status.loss, 4));
  if (status.samples_per_second >= 0) {
    std::string speed = rounded(status.samples_per_second, 0) + " samples/s";
    if (status.state == "running") speed += ", left " + clock_text(status.seconds_left);
    row("speed", speed);
  }
  row("ranks", cat(status.ranks, " on ", join(status.hosts)));
  const std::string checkpoint = newest_checkpoint(run_directory);
  row("checkpoint", checkpoint.empty() ? "none yet" : checkpoint);
  row("restarts", std::to_string(status.restarts));
  if (status.memory_every > 0) row("memory", cat("every ", status.memory_every, " steps"));
  if (!status.left_out.empty()) row("left out", join(status.left_out, "; "));
  if (const SlowRank& slow = status.straggler; slow.rank >= 0) {
    row("straggler", cat("rank ", slow.rank, " on host ", slow.host, " (", rounded(slow.factor, 1),
                         "x the others' time)"));
  }
  if (!status.slurm_job.empty()) row("Slurm job", status.slurm_job);
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  row("started", date(status.started));
  row("last heard",
      date(status.updated) + ", " + clock_text(std::max(0.0, now - status.updated)) + " ago");
}

int code_of(const RunStatus& status) {
  if (status.state == "dead") return exit_code(ErrorKind::peer);
  return status.state == "failed" ? status.exit_code : 0;
}

}  // namespace

void add_status_command(CLI::App& app) {
  struct Arguments {
    std::string run;
    bool json = false, word = false;
  };
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command =
      app.add_subcommand("status", "say what a run is doing; reads only its directory");
  command->add_option("run", arguments->run, "run directory")->required();
  CLI::Option* json = command->add_flag("--json", arguments->json, "print all of it as JSON");
  command->add_flag("--word", arguments->word, "print the state alone")->excludes(json);
  command->footer(
      "States: running, stopped (asked to; the same command goes on), finished, failed, waiting\n"
      "(peal launch --elastic starts it again) and dead (ended without a word). Exit codes: 3 for\n"
      "a dead run, that of the run for a failed one, 0 for all others; 2 when there is no run.\n"
      "Example:\n  peal status runs/fashion_mnist");
  command->callback([arguments] {
    const RunStatus status = read_status(arguments->run);
    if (arguments->json) {
      std::fputs(status_json(status).c_str(), stdout);
    } else if (arguments->word) {
      std::puts(status.state.c_str());
    } else {
      print_status(arguments->run, status);
    }
    if (code_of(status) != 0) throw EndWith{code_of(status)};
  });
}

}  // namespace peal
