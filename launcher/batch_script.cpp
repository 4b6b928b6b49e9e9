#include "launcher/batch_script.h"

#include <string_view>

#include "core/base/error.h"
#include "launcher/program.h"

namespace peal {
namespace {

constexpr std::string_view kTask = "%a";

// One option of sbatch, with quotes where it reads them.
std::string directive(const std::string& option) {
  const bool plain = option.find_first_of(" \t\"'#") == std::string::npos;
  return "#SBATCH " + (plain ? option : shell_quoted(option)) + "\n";
}

std::string option(const char* name, const std::string& value) {
  return value.empty() ? "" : directive(cat("--", name, "=", value));
}

// sbatch puts names in for %j and the like: a path of the user's has none.
std::string literal(const std::filesystem::path& path) {
  std::string out;
  for (const char c : path.string()) out += c == '%' ? std::string("%%") : std::string(1, c);
  return out;
}

std::string head(const BatchJob& job) {
  std::string text = "#!/bin/bash\n";
  text += "# Written by `peal submit`. To submit it again by hand, from any folder: sbatch " +
          shell_quoted((job.run_directory / "job.sbatch").string()) + "\n";
  text += option("job-name", job.name);
  text += option("nodes", std::to_string(job.nodes));
  text += option("ntasks-per-node", std::to_string(job.ranks_per_node));
  if (job.plan.cores_per_rank > 0) {
    text += option("cpus-per-task", std::to_string(job.plan.cores_per_rank));
  }
  if (job.gpus_per_node > 0) text += option("gpus-per-node", std::to_string(job.gpus_per_node));
  text += option("partition", job.partition) + option("time", job.time) +
          option("account", job.account) + option("array", job.array);
  text += option("chdir", job.folder.string());
  text += option("output", literal(job.run_directory) +
                               (job.array.empty() ? "/slurm-%j.log" : "/slurm-%A_%a.log"));
  text += directive("--open-mode=append");
  text += directive(cat("--signal=B:USR1@", job.stop_before));
  text += directive(job.requeue ? "--requeue" : "--no-requeue");
  for (const std::string& more : job.sbatch) text += directive(more);
  return text;
}

// "train.seed=%a" -> train.seed="$SLURM_ARRAY_TASK_ID"
std::string with_task(std::string word) {
  std::string out;
  for (std::size_t at = 0; (at = word.find(kTask)) != std::string::npos;) {
    if (at > 0) out += shell_quoted(word.substr(0, at));
    out += "\"$SLURM_ARRAY_TASK_ID\"";
    word = word.substr(at + kTask.size());
  }
  return word.empty() ? out : out + shell_quoted(word);
}

std::string start_ranks(const BatchJob& job) {
  RankPlan plan = job.plan;
  plan.environment.clear();  // exported above
  std::vector<std::string> train = {own_path(), "train", job.job_file.string()};
  for (const std::string& word : bind_words(plan)) train.push_back(word);
  std::string line = command_line(srun_command(plan, train));
  if (!job.array.empty()) {
    line += " --set run.directory=\"$run\"";
    for (const std::string& assignment : job.set) line += " --set " + with_task(assignment);
  }
  if (job.fresh) line += " $fresh";
  return line + " &\n";
}

std::string run_directory(const BatchJob& job) {
  const std::string folder = shell_quoted(job.run_directory.string());
  return "run=" + folder + (job.array.empty() ? "" : "/task-\"$SLURM_ARRAY_TASK_ID\"") + "\n";
}

std::string requeue() {
  return cat(R"(
# Stopped before its end, but not by scancel (Slurm then shows the job as completing): once more,
# from the checkpoint. 143: it was to end before its first step.
state=$()",
             shell_quoted(own_path()), R"( status --word "$run")
if { [[ $code == 0 && $state == stopped ]] || [[ $code == 143 ]]; } &&
  [[ $(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T) == RUNNING ]]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
)");
}

}  // namespace

std::filesystem::path batch_log(const BatchJob& job, const std::string& id) {
  return job.run_directory / cat("slurm-", id, ".log");
}

std::string batch_script(const BatchJob& job) {
  std::string text = head(job) + "\n";
  for (const std::string& variable : job.plan.environment) {
    const std::size_t equals = variable.find('=');
    text += "export " + variable.substr(0, equals + 1) + shell_quoted(variable.substr(equals + 1)) +
            "\n";
  }
  text += run_directory(job);
  if (job.fresh) text += "fresh=--fresh\n[[ ${SLURM_RESTART_COUNT:-0} == 0 ]] || fresh=\n";
  text += cat(R"(
# Slurm sends USR1 )",
              job.stop_before,
              R"( s or more before the time limit, and TERM at scancel. Ranks that get USR1
# finish their step, write a checkpoint and end.
stop() {
  interrupted=yes
  [[ -z $ranks ]] || kill -USR1 "$ranks"
}
ranks=
trap stop USR1 TERM

)");
  text += start_ranks(job);
  text += R"(ranks=$!
while true; do
  interrupted=
  wait "$ranks"
  code=$?
  [[ -n $interrupted ]] || break
done
)";
  if (job.requeue) text += requeue();
  return text + "exit \"$code\"\n";
}

}  // namespace peal
