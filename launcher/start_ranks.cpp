#include "launcher/start_ranks.h"

#include <arpa/inet.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>

#include "core/base/error.h"
#include "core/base/text.h"

namespace peal {
namespace {

using Words = std::vector<std::string>;

void append(Words& words, std::initializer_list<std::string> more) {
  words.insert(words.end(), more);
}

// mpirun writes the folder that it lies in into a command line for other hosts' shells as it is.
void check_folder_of(const std::string& mpirun) {
  const std::string folder = std::filesystem::path(mpirun).parent_path();
  const bool plain = std::all_of(folder.begin(), folder.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("/._-+@%,:=", c) != nullptr;
  });
  if (!plain) {
    fail_input("--hosts", "Open MPI starts nothing on other hosts from '", folder,
               "'; move the bundle to a folder whose name needs no quotes in a shell");
  }
}

int slots_of(const std::vector<HostSlots>& hosts) {
  int sum = 0;
  for (const HostSlots& host : hosts) sum += host.slots;
  return sum;
}

}  // namespace

Words mpirun_command(const RankPlan& plan, const Words& program) {
  const int slots = slots_of(plan.hosts);
  const int ranks = plan.ranks > 0 ? plan.ranks : slots;
  if (!plan.hosts.empty() && ranks > slots) {
    fail_input("--ranks", ranks, " ranks do not fit in the ", slots, " slots of ",
               host_list(plan.hosts));
  }
  Words words = {mpirun_path(), "-np", std::to_string(ranks)};
  if (!plan.hosts.empty()) {
    check_folder_of(words[0]);
    append(words, {"--host", host_list(plan.hosts)});
  }
  // mpirun would count cores and refuse more ranks, where hyperthreads or sharing may be meant.
  if (plan.hosts.empty() && !in_slurm()) words.push_back("--oversubscribe");
  // It gives all ranks as many cores each, on large hosts and small: ranks bind themselves.
  append(words, {"--bind-to", "none"});
  if (geteuid() == 0) words.push_back("--allow-run-as-root");
  if (!plan.interface.empty()) {
    append(words, {"--mca", "oob_tcp_if_include", plan.interface});
    append(words, {"--mca", "btl_tcp_if_include", plan.interface});
  }
  for (const std::string& variable : plan.environment) append(words, {"-x", variable});
  // When mpirun ends ranks, because one has failed: seconds until it tells them to, and from then
  // until it kills them. In these the others say who it was; a start that fails waits for them,
  // too.
  append(words, {"--mca", "odls_base_sigkill_timeout", plan.elastic ? "1" : "2"});
  if (plan.elastic) {
    append(words, {"--mca", "plm_rsh_no_tree_spawn", "1", "--mca", "routed", "direct"});
    // Through ssh, as the agents: Slurm's part of mpirun knows only the hosts of its start.
    if (in_slurm()) append(words, {"--mca", "plm", "rsh", "--mca", "ras", "^slurm"});
  }
  // Containers forbid the system call behind this; Peal's own shared memory does not need it.
  append(words, {"--mca", "btl_vader_single_copy_mechanism", "none"});
  words.insert(words.end(), plan.more.begin(), plan.more.end());
  words.insert(words.end(), program.begin(), program.end());
  return words;
}

Words srun_command(const RankPlan& plan, const Words& program) {
  static const std::map<std::string, std::string> kBind = {
      {"core", "cores"}, {"socket", "sockets"}, {"numa", "ldoms"}, {"none", "none"}};
  // srun hands its own environment to every rank.
  Words words = {"env", "OMPI_MCA_btl_vader_single_copy_mechanism=none"};
  if (!plan.interface.empty()) words.push_back("OMPI_MCA_btl_tcp_if_include=" + plan.interface);
  for (const std::string& variable : plan.environment) {
    if (variable.find('=') != std::string::npos) words.push_back(variable);
  }
  append(words, {"srun", "--mpi=pmix", "--kill-on-bad-exit=1"});
  if (plan.ranks > 0) words.push_back(cat("--ntasks=", plan.ranks));
  if (plan.ranks_per_host > 0) words.push_back(cat("--ntasks-per-node=", plan.ranks_per_host));
  if (plan.cores_per_rank > 0) words.push_back(cat("--cpus-per-task=", plan.cores_per_rank));
  // Where Slurm binds ranks, it alone knows which cores of a host are the job's; where its plugins
  // do not, ranks bind themselves.
  if (plan.bind != "auto") words.push_back("--cpu-bind=" + kBind.at(plan.bind));
  words.insert(words.end(), plan.more.begin(), plan.more.end());
  words.insert(words.end(), program.begin(), program.end());
  return words;
}

Words bind_words(const RankPlan& plan) {
  if (plan.bind == "none") return {};
  return {"--bind", plan.bind};
}

std::string mpirun_path() {
  const std::filesystem::path self = std::filesystem::read_symlink("/proc/self/exe");
  const std::filesystem::path beside = self.parent_path() / "mpirun";
  return ::access(beside.c_str(), X_OK) == 0 ? beside.string() : "mpirun";
}

bool in_slurm() {
  return std::getenv("SLURM_JOB_ID") != nullptr;
}

void check_interface(const std::string& interface) {
  const std::size_t slash = interface.find('/');
  if (slash != std::string::npos) {
    in_addr address{};
    char* end = nullptr;
    const std::string bits = interface.substr(slash + 1);
    const long length = std::strtol(bits.c_str(), &end, 10);
    if (inet_pton(AF_INET, interface.substr(0, slash).c_str(), &address) != 1 || bits.empty() ||
        *end != '\0' || length < 1 || length > 32) {
      fail_input("--interface", "'", interface, "' is no network; write it like 10.0.0.0/24");
    }
    return;
  }
  Words cards;
  for (const auto& card : std::filesystem::directory_iterator("/sys/class/net")) {
    cards.push_back(card.path().filename().string());
  }
  std::sort(cards.begin(), cards.end());
  if (std::find(cards.begin(), cards.end(), interface) == cards.end()) {
    fail_input("--interface", "this host has no network card '", interface, "'; it has ",
               join(cards), "; or name a network like 10.0.0.0/24");
  }
}

void check_environment(const Words& environment) {
  for (const std::string& variable : environment) {
    const std::size_t equals = variable.find('=');
    const std::string name = variable.substr(0, equals);
    const bool plain = std::all_of(
        name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) != 0 || c == '_'; });
    if (name.empty() || !plain || std::isdigit(static_cast<unsigned char>(name[0])) != 0) {
      fail_input("--env", "'", variable, "' is neither NAME nor NAME=VALUE");
    }
    if (equals == std::string::npos && std::getenv(name.c_str()) == nullptr) {
      fail_input("--env", "'", name, "' is not set here; set it, or give NAME=VALUE");
    }
  }
}

void check_shared_memory() {
  // A rank maps 4 MiB there if they are free when it starts, and uses 0.1 MiB of them.
  constexpr std::uint64_t kWanted = std::uint64_t{5} << 20;
  for (const char* elsewhere : {"OMPI_MCA_btl", "OMPI_MCA_btl_vader_backing_directory"}) {
    if (std::getenv(elsewhere) != nullptr) return;
  }
  struct statfs shm {};
  if (::statfs("/dev/shm", &shm) != 0) return;  // then it is not used
  const auto block = static_cast<std::uint64_t>(shm.f_bsize);
  const std::uint64_t room = block * static_cast<std::uint64_t>(shm.f_bavail);
  if (room >= kWanted) return;
  fail_input("/dev/shm", human_bytes(static_cast<double>(room)), " of ",
             human_bytes(static_cast<double>(block * static_cast<std::uint64_t>(shm.f_blocks))),
             " are free, but Open MPI wants ", human_bytes(static_cast<double>(kWanted)),
             " there for ranks on one host; remove what crashed programs left, or make it larger: "
             "mount -o remount,size=50% /dev/shm, or --shm-size=256m of the container");
}

}  // namespace peal
