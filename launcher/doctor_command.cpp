#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <sstream>

#include "core/base/error.h"
#include "launcher/cli.h"
#include "launcher/doctor_judge.h"
#include "launcher/doctor_network.h"
#include "launcher/doctor_probe.h"
#include "launcher/program.h"
#include "launcher/slurm.h"
#include "launcher/start_ranks.h"

namespace peal {
namespace {

struct DoctorArguments {
  std::string hosts, hostfile, minimum_disk = "1GiB", minimum_shm = "32MiB",
                               minimum_bandwidth = "0B";
  int slots = 1;
  double seconds = 15;
  DoctorQuestion question;
  bool json = false, probe = false, measure = false;
};

std::vector<HostSlots> hosts_of(DoctorArguments& arguments) {
  if (!arguments.hosts.empty()) return parse_hosts(arguments.hosts, arguments.slots);
  if (!arguments.hostfile.empty()) return read_hostfile(arguments.hostfile, arguments.slots);
  if (in_slurm()) {
    arguments.question.srun = true;
    return allocated_hosts(arguments.slots);
  }
  char own[256] = {};
  ::gethostname(own, sizeof own - 1);
  return {{own, arguments.slots}};
}

int doctor(DoctorArguments& arguments) {
  DoctorQuestion& question = arguments.question;
  question.limits.disk =
      static_cast<std::uint64_t>(parse_bytes(arguments.minimum_disk, "--min-disk"));
  question.limits.shm = static_cast<std::uint64_t>(parse_bytes(arguments.minimum_shm, "--min-shm"));
  question.limits.bytes_per_second =
      static_cast<double>(parse_bytes(arguments.minimum_bandwidth, "--min-bandwidth"));
  for (std::string& folder : question.folders) {
    folder = std::filesystem::absolute(folder).lexically_normal().string();
  }
  if (question.interface.find('/') != std::string::npos) check_interface(question.interface);
  const std::vector<HostSlots> hosts = hosts_of(arguments);
  std::vector<std::string> names;
  for (const HostSlots& host : hosts) names.push_back(host.name);
  DoctorReport report(names);
  const VisitOptions options{
      .seconds = arguments.seconds, .srun = question.srun, .folders = question.folders};
  std::vector<HostVisit> visits = visit_hosts(hosts, options);
  share_folders(visits, options);
  for (HostVisit& visit : visits) visit.probe.reset();
  judge_visits(visits, question, report);
  check_network(visits, question, arguments.seconds, report);
  std::fputs((arguments.json ? report.json() : report.table()).c_str(), stdout);
  return report.count(Level::fault) > 0 ? exit_code(ErrorKind::peer) : 0;
}

void add_doctor_arguments(CLI::App& command, DoctorArguments& arguments) {
  CLI::Option* hosts =
      command.add_option("--hosts", arguments.hosts, "hosts and how many ranks each is to take")
          ->type_name("A:N,B:N");
  command.add_option("--hostfile", arguments.hostfile, "the same, one a line: `a slots=2`")
      ->excludes(hosts);
  command.add_option("--slots", arguments.slots, "ranks on every host that does not say")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  command
      .add_option(
          "--directory", arguments.question.folders,
          "folder that all hosts must share, such as that of data and runs; may be given again")
      ->take_all()
      ->allow_extra_args(false);
  command.add_option("--interface", arguments.question.interface,
                     "network card or network (10.0.0.0/24) that is to be used between hosts");
  command.add_option("--deadline", arguments.seconds, "seconds that a host has to answer")
      ->check(CLI::Range(1.0, 600.0))
      ->capture_default_str();
  command.add_option("--min-disk", arguments.minimum_disk, "free space in every --directory")
      ->capture_default_str();
  command.add_option("--min-shm", arguments.minimum_shm, "free space in /dev/shm")
      ->capture_default_str();
  command
      .add_option("--min-bandwidth", arguments.minimum_bandwidth,
                  "bytes a second on every link; links are compared with one another in any case")
      ->capture_default_str();
  command
      .add_option("--max-skew", arguments.question.limits.skew_seconds,
                  "seconds that clocks may differ without a warning")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command.add_flag("--json", arguments.json, "print one JSON object");
  // What it starts on the hosts.
  command.add_flag("--probe", arguments.probe)->group("");
  command.add_flag("--measure", arguments.measure)->group("");
}

}  // namespace

void add_doctor_command(CLI::App& app) {
  auto arguments = std::make_shared<DoctorArguments>();
  CLI::App* command = app.add_subcommand(
      "doctor",
      "check hosts before a job is trusted to them: this one, those named, or those of "
      "this allocation of Slurm");
  add_doctor_arguments(*command, *arguments);
  command->footer(
      "Exit codes: 0 all right, also with warnings; 3 with a fault; 2 wrong use.\n"
      "Examples:\n  peal doctor\n"
      "  peal doctor --hosts node1:4,node2:4 --directory /shared/runs --interface eth0\n"
      "  salloc --nodes 2 peal doctor --directory $HOME/runs");
  command->callback([arguments] {
    if (arguments->probe) return run_probe();
    if (arguments->measure) return measure_as_rank(arguments->seconds);
    const int code = doctor(*arguments);
    if (code != 0) throw EndWith{code};
  });
}

}  // namespace peal
