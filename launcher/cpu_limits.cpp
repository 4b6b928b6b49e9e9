#include "launcher/cpu_limits.h"

#include <sched.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace peal {
namespace {

namespace fs = std::filesystem;

// "200000 100000", or "max 100000" of version 2 of control groups; the two files of version 1.
double quota_of(const fs::path& group) {
  double quota = 0, period = 0;
  if (std::ifstream(group / "cpu.max") >> quota >> period && period > 0) return quota / period;
  quota = period = 0;
  std::ifstream(group / "cpu.cfs_quota_us") >> quota;
  std::ifstream(group / "cpu.cfs_period_us") >> period;
  return quota > 0 && period > 0 ? quota / period : 0;
}

}  // namespace

CpuSet allowed_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  CpuSet allowed;
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return allowed;
  for (std::size_t cpu = 0; cpu < allowed.size(); ++cpu) {
    if (CPU_ISSET(cpu, &set)) allowed.set(cpu);
  }
  return allowed;
}

double cpu_quota() {
  double tightest = 0;
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string kinds = "," + line.substr(first + 1, second - first - 1) + ",";
    const bool version_2 = kinds == ",,";
    if (!version_2 && kinds.find(",cpu,") == std::string::npos) continue;
    const fs::path root = version_2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/cpu";
    for (fs::path group = line.substr(second + 1);; group = group.parent_path()) {
      const double quota = quota_of(root / group.relative_path());
      if (quota > 0 && (tightest == 0 || quota < tightest)) tightest = quota;
      if (group == group.parent_path()) break;
    }
  }
  return tightest;
}

}  // namespace peal
