#include "launcher/slurm.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/base/error.h"
#include "launcher/program.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

std::string trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

std::string field(const std::string& line, const std::string& name) {
  const std::size_t at = (" " + line).find(" " + name + "=");
  if (at == std::string::npos) return "";
  const std::size_t begin = at + name.size() + 1;
  return trimmed(line.substr(begin, line.find_first_of(" \n", begin) - begin));
}

int number(const std::string& text) {
  int value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

// The part of a growing file that was not shown yet.
class Tail {
 public:
  explicit Tail(std::filesystem::path path) : path_(std::move(path)) {}

  void show() {
    std::ifstream file(path_, std::ios::binary);
    if (!file || !file.seekg(shown_)) return;
    std::array<char, 4096> block{};
    while (file.read(block.data(), block.size()), file.gcount() > 0) {
      std::fwrite(block.data(), 1, static_cast<std::size_t>(file.gcount()), stdout);
      shown_ += file.gcount();
    }
    std::fflush(stdout);
  }

 private:
  std::filesystem::path path_;
  std::streamoff shown_ = 0;
};

std::string words(const std::string& id, const SlurmJob& job) {
  std::string text = cat("job ", id, ": ", job.state);
  if (job.state == "PENDING" && job.reason != "None") text += " (" + job.reason + ")";
  if (job.state == "RUNNING") text += " on " + job.nodes;
  if (job.restarts > 0) text += cat(", restarts ", job.restarts);
  return text;
}

int code_of(const SlurmJob& job) {
  if (job.state == "COMPLETED") return 0;
  const bool by_itself = job.state == "FAILED" && job.signal == 0 && job.exit_code != 0;
  return by_itself ? job.exit_code : exit_code(ErrorKind::peer);
}

}  // namespace

std::string slurm_job_id() {
  const char* id = std::getenv("SLURM_JOB_ID");
  return id == nullptr ? "" : id;
}

std::vector<HostSlots> allocated_hosts(int slots) {
  const std::string id = slurm_job_id();
  const auto ask = [&](const std::vector<std::string>& words) {
    const Outcome said = run_program(words);
    if (said.code == 0) return trimmed(said.out);
    throw Error(ErrorKind::peer, words[0],
                cat("does not tell the hosts of job ", id, ": ", trimmed(said.error)));
  };
  const std::string list = ask({"squeue", "--noheader", "--jobs", id, "--format", "%N"});
  if (list.empty()) throw Error(ErrorKind::peer, "squeue", cat("job ", id, " has no hosts"));
  std::istringstream names(ask({"scontrol", "show", "hostnames", list}));
  std::vector<HostSlots> hosts;
  for (std::string name; names >> name;) hosts.push_back({name, slots});
  return hosts;
}

std::string submit(const std::filesystem::path& script) {
  const Outcome outcome = run_program({"sbatch", "--parsable", script.string()});
  if (outcome.code == 127) {
    fail_input("sbatch", "cannot be started (", outcome.error,
               "); Slurm's commands must be on PATH (Debian package slurm-client)");
  }
  const std::string said = trimmed(outcome.error);
  if (outcome.code != 0 && said.find("Unable to contact") != std::string::npos) {
    throw Error(ErrorKind::peer, "sbatch", said);
  }
  if (outcome.code != 0) fail_input("sbatch", said, " (", script.string(), ")");
  return trimmed(outcome.out.substr(0, outcome.out.find(';')));
}

SlurmJob parse_job_line(const std::string& line) {
  const std::string code = field(line, "ExitCode");
  const std::size_t colon = std::min(code.find(':'), code.size());
  return {.state = field(line, "JobState"),
          .reason = field(line, "Reason"),
          .nodes = field(line, "NodeList"),
          .exit_code = number(code.substr(0, colon)),
          .signal = number(code.substr(std::min(colon + 1, code.size()))),
          .restarts = number(field(line, "Restarts"))};
}

bool has_ended(const SlurmJob& job) {
  static const std::array<const char*, 9> kLast = {"COMPLETED", "FAILED",    "CANCELLED",
                                                   "TIMEOUT",   "NODE_FAIL", "PREEMPTED",
                                                   "BOOT_FAIL", "DEADLINE",  "OUT_OF_MEMORY"};
  return std::find(kLast.begin(), kLast.end(), job.state) != kLast.end();
}

int follow(const std::string& id, const std::filesystem::path& log) {
  Tail tail(log);
  std::string told;
  auto answered = Clock::now();
  while (true) {
    const Outcome asked = run_program({"scontrol", "--oneliner", "show", "job", id});
    tail.show();
    if (asked.code == 0) {
      answered = Clock::now();
      const SlurmJob job = parse_job_line(asked.out);
      const std::string now = words(id, job);
      if (now != told) std::fprintf(stderr, "%s\n", now.c_str());
      told = now;
      if (has_ended(job)) {
        tail.show();
        return code_of(job);
      }
    } else if (Clock::now() - answered > std::chrono::minutes(1)) {
      throw Error(ErrorKind::peer, "job " + id,
                  "Slurm has told nothing of it for a minute: " + trimmed(asked.error));
    }
    std::this_thread::sleep_for(std::chrono::seconds(1));
  }
}

}  // namespace peal
