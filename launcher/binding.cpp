#include "launcher/binding.h"

#include <hwloc.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <tuple>

#include "core/base/error.h"

namespace peal {
namespace {

constexpr unsigned kNvidia = 0x10de, kDisplay = 0x03;  // vendor and base class, as PCI counts them

struct FreeBitmap {
  void operator()(hwloc_bitmap_t set) const { hwloc_bitmap_free(set); }
};
using Bitmap = std::unique_ptr<hwloc_bitmap_s, FreeBitmap>;

Bitmap new_bitmap() {
  return Bitmap(hwloc_bitmap_alloc());
}

std::string host_name() {
  char own[256] = {};
  ::gethostname(own, sizeof own - 1);
  return own;
}

// hwloc loads its plugins when a tree is made; those of Debian start OpenCL and X, and leave memory
// behind. What Linux says of PCI cards needs none.
class WithoutPlugins {
 public:
  WithoutPlugins() {
    if (const char* path = std::getenv(kVariable)) before_ = path;
    ::setenv(kVariable, "/nonexistent", 1);
  }
  ~WithoutPlugins() {
    if (before_) {
      ::setenv(kVariable, before_->c_str(), 1);
    } else {
      ::unsetenv(kVariable);
    }
  }
  WithoutPlugins(const WithoutPlugins&) = delete;
  WithoutPlugins& operator=(const WithoutPlugins&) = delete;

 private:
  static constexpr const char* kVariable = "HWLOC_PLUGINS_PATH";
  std::optional<std::string> before_;
};

class Machine {
 public:
  explicit Machine(const CpuSet& allowed) {
    const WithoutPlugins scope;
    if (hwloc_topology_init(&tree_) != 0) fail_internal("hwloc", std::strerror(errno));
    hwloc_topology_set_io_types_filter(tree_, HWLOC_TYPE_FILTER_KEEP_IMPORTANT);
    if (hwloc_topology_load(tree_) != 0) {
      const std::string why = std::strerror(errno);
      hwloc_topology_destroy(tree_);
      fail_input("hwloc", "cannot read the tree of this machine: ", why);
    }
    if (allowed.any() && is_this_one()) keep_to(allowed);
  }
  ~Machine() { hwloc_topology_destroy(tree_); }
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  bool is_this_one() const { return hwloc_topology_is_thissystem(tree_) != 0; }
  hwloc_obj_t root() const { return hwloc_get_root_obj(tree_); }

  // Sets of processors, each once: two memories may belong to the same ones.
  std::vector<hwloc_const_cpuset_t> sets(hwloc_obj_type_t type) const {
    std::vector<hwloc_const_cpuset_t> out;
    hwloc_obj_t object = nullptr;
    while ((object = hwloc_get_next_obj_by_type(tree_, type, object)) != nullptr) {
      const auto same = [&](hwloc_const_cpuset_t set) {
        return hwloc_bitmap_isequal(set, object->cpuset) != 0;
      };
      if (hwloc_bitmap_iszero(object->cpuset) == 0 && std::none_of(out.begin(), out.end(), same)) {
        out.push_back(object->cpuset);
      }
    }
    if (out.empty()) out.push_back(root()->cpuset);
    return out;
  }

  // In the order of their addresses.
  std::vector<hwloc_obj_t> gpus() const {
    std::vector<hwloc_obj_t> out;
    hwloc_obj_t device = nullptr;
    while ((device = hwloc_get_next_pcidev(tree_, device)) != nullptr) {
      const auto& pci = device->attr->pcidev;
      if (pci.vendor_id == kNvidia && pci.class_id >> 8 == kDisplay) out.push_back(device);
    }
    std::sort(out.begin(), out.end(), [](hwloc_obj_t a, hwloc_obj_t b) {
      const auto& x = a->attr->pcidev;
      const auto& y = b->attr->pcidev;
      return std::tie(x.domain, x.bus, x.dev, x.func) < std::tie(y.domain, y.bus, y.dev, y.func);
    });
    return out;
  }

  // How far down the tree the part lies that holds both.
  int nearness(hwloc_const_cpuset_t cpus, hwloc_obj_t device) const {
    return hwloc_get_common_ancestor_obj(tree_, hwloc_get_obj_covering_cpuset(tree_, cpus),
                                         hwloc_get_non_io_ancestor_obj(tree_, device))
        ->depth;
  }

  // "0-1" for the objects of a kind that hold some of `cpus`, and how many those are.
  std::pair<std::string, int> numbers(hwloc_obj_type_t type, hwloc_const_cpuset_t cpus) const {
    const Bitmap found = new_bitmap();
    int count = 0;
    hwloc_obj_t object = nullptr;
    while ((object = hwloc_get_next_obj_by_type(tree_, type, object)) != nullptr) {
      if (hwloc_bitmap_intersects(object->cpuset, cpus) == 0) continue;
      hwloc_bitmap_set(found.get(), object->os_index);
      ++count;
    }
    return {list(found.get()), count};
  }

  static std::string list(hwloc_const_bitmap_t set) {
    std::string text(static_cast<std::size_t>(hwloc_bitmap_list_snprintf(nullptr, 0, set)), '\0');
    hwloc_bitmap_list_snprintf(text.data(), text.size() + 1, set);
    return text;
  }

 private:
  void keep_to(const CpuSet& allowed) {
    const Bitmap set = new_bitmap();
    for (std::size_t cpu = 0; cpu < allowed.size(); ++cpu) {
      if (allowed.test(cpu)) hwloc_bitmap_set(set.get(), static_cast<unsigned>(cpu));
    }
    // Fails where none of them is in the tree: then nothing is known of limits, and none kept.
    hwloc_topology_restrict(tree_, set.get(),
                            HWLOC_RESTRICT_FLAG_REMOVE_CPULESS | HWLOC_RESTRICT_FLAG_ADAPT_IO);
  }

  hwloc_topology_t tree_ = nullptr;
};

// Run `i` of `parts`, of pieces that are cut into runs as equal as can be.
Bitmap run_of(const std::vector<hwloc_const_cpuset_t>& pieces, int i, int parts) {
  const auto n = static_cast<std::int64_t>(pieces.size());
  Bitmap out = new_bitmap();
  for (std::int64_t p = n * i / parts; p < n * (i + 1) / parts; ++p) {
    hwloc_bitmap_or(out.get(), out.get(), pieces[static_cast<std::size_t>(p)]);
  }
  return out;
}

// By rank; null where ranks are not bound.
std::vector<Bitmap> shares(const Machine& machine, const std::string& bind, int ranks) {
  const auto cores = machine.sets(HWLOC_OBJ_CORE), processors = machine.sets(HWLOC_OBJ_PU);
  const auto whole = machine.sets(bind == "socket" ? HWLOC_OBJ_PACKAGE : HWLOC_OBJ_NUMANODE);
  const auto fit = [&](const auto& pieces) {
    return static_cast<std::size_t>(ranks) <= pieces.size();
  };
  if (bind == "core" && !fit(cores)) {
    fail_input("--bind core", "host ", host_name(), ": ", ranks, " ranks, which may use ",
               cores.size(), " core", cores.size() == 1 ? "" : "s",
               "; start fewer ranks there, or give --bind auto");
  }
  std::vector<Bitmap> out(static_cast<std::size_t>(ranks));
  const auto one_of = [](const auto& pieces, int rank, int of) {
    return Bitmap(hwloc_bitmap_dup(
        pieces[pieces.size() * static_cast<std::size_t>(rank) / static_cast<std::size_t>(of)]));
  };
  for (int rank = 0; rank < ranks; ++rank) {
    Bitmap& mine = out[static_cast<std::size_t>(rank)];
    if (bind == "core") mine = one_of(cores, rank, ranks);
    if (bind == "socket" || bind == "numa") mine = one_of(whole, rank, ranks);
    if (bind == "auto" && fit(processors))
      mine = run_of(fit(cores) ? cores : processors, rank, ranks);
  }
  return out;
}

std::string counted(const char* name, const std::pair<std::string, int>& numbers) {
  return cat(name, numbers.second == 1 ? " " : "s ", numbers.first);
}

std::string describe(const Machine& machine, hwloc_const_cpuset_t cpus) {
  const int cores = machine.numbers(HWLOC_OBJ_CORE, cpus).second;
  std::string text = counted("CPU", {Machine::list(cpus), hwloc_bitmap_weight(cpus)});
  if (cores > 0) text += cat(": ", cores, " core", cores == 1 ? "" : "s");
  const auto sockets = machine.numbers(HWLOC_OBJ_PACKAGE, cpus);
  if (sockets.second > 0) text += " of " + counted("socket", sockets);
  return text + ", " + counted("NUMA node", machine.numbers(HWLOC_OBJ_NUMANODE, cpus));
}

// Each rank takes the nearest GPU; as many ranks as its share of them may take one.
void share_gpus(const Machine& machine, const std::vector<Bitmap>& cpus, HostBinding& host) {
  const std::vector<hwloc_obj_t> gpus = machine.gpus();
  if (gpus.empty()) return;
  const std::size_t most = (cpus.size() + gpus.size() - 1) / gpus.size();
  std::vector<std::size_t> taken(gpus.size());
  for (std::size_t rank = 0; rank < cpus.size(); ++rank) {
    const hwloc_const_cpuset_t mine = cpus[rank] ? cpus[rank].get() : machine.root()->cpuset;
    int best = -1, nearest = -1;
    for (std::size_t g = 0; g < gpus.size(); ++g) {
      const int near = machine.nearness(mine, gpus[g]);
      if (taken[g] == most || near <= nearest) continue;
      best = static_cast<int>(g);
      nearest = near;
    }
    const auto chosen = static_cast<std::size_t>(best);
    ++taken[chosen];
    const auto& pci = gpus[chosen]->attr->pcidev;
    char address[32];
    std::snprintf(address, sizeof address, "%04x:%02x:%02x.%x", unsigned{pci.domain},
                  unsigned{pci.bus}, unsigned{pci.dev}, unsigned{pci.func});
    host.ranks[rank].gpu = best;
    host.ranks[rank].gpu_address = address;
  }
}

const char* variable(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr && *value != '\0' ? value : nullptr;
}

int number_in(const char* name, int otherwise) {
  const char* value = variable(name);
  return value != nullptr ? std::atoi(value) : otherwise;
}

// Entry `node` of "2(x3),1": 2, 2, 2, 1. 1 when it says nothing of it.
int tasks_of_node(const char* list, int node) {
  std::istringstream parts(list);
  for (std::string part; std::getline(parts, part, ',');) {
    const std::size_t times = part.find("(x");
    node -= times == std::string::npos ? 1 : std::atoi(part.c_str() + times + 2);
    if (node < 0) return std::max(1, std::atoi(part.c_str()));
  }
  return 1;
}

void keep_to(const CpuSet& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (std::size_t cpu = 0; cpu < cpus.size(); ++cpu) {
    if (cpus.test(cpu)) CPU_SET(cpu, &set);
  }
  if (::sched_setaffinity(0, sizeof set, &set) != 0) {
    fail_input("--bind", "the system refuses: ", std::strerror(errno), "; --bind none leaves it");
  }
}

// CUDA counts in this order when told so. It has not started yet.
void show_cuda_only(int gpu) {
  if (gpu < 0 || variable("CUDA_VISIBLE_DEVICES") != nullptr) return;
  ::setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID", 1);
  ::setenv("CUDA_VISIBLE_DEVICES", std::to_string(gpu).c_str(), 1);
}

}  // namespace

std::string describe(const RankBinding& binding) {
  return binding.gpu < 0 ? binding.text : cat(binding.text, "; GPU ", binding.gpu_address);
}

HostBinding share_host(const std::string& bind, int ranks, const CpuSet& allowed) {
  HostBinding host{.ranks = std::vector<RankBinding>(static_cast<std::size_t>(ranks))};
  if (bind == "none") {
    for (RankBinding& rank : host.ranks) rank.text = "not bound";
    return host;
  }
  const Machine machine(allowed);
  host.this_machine = machine.is_this_one();
  const std::vector<Bitmap> cpus = shares(machine, bind, ranks);
  for (std::size_t r = 0; r < cpus.size(); ++r) {
    if (!cpus[r]) {
      host.ranks[r].text =
          cat("not bound: ", ranks, " ranks share ", describe(machine, machine.root()->cpuset));
      continue;
    }
    int cpu = -1;
    while ((cpu = hwloc_bitmap_next(cpus[r].get(), cpu)) >= 0) {
      if (cpu < static_cast<int>(CpuSet().size())) {
        host.ranks[r].cpus.set(static_cast<std::size_t>(cpu));
      }
    }
    host.ranks[r].text = describe(machine, cpus[r].get());
  }
  share_gpus(machine, cpus, host);
  return host;
}

PlaceOnHost place_on_host() {
  PlaceOnHost place;
  if (variable("OMPI_COMM_WORLD_LOCAL_SIZE") != nullptr) {
    place.rank = number_in("OMPI_COMM_WORLD_LOCAL_RANK", 0);
    place.ranks = number_in("OMPI_COMM_WORLD_LOCAL_SIZE", 1);
    if (variable("OMPI_MCA_orte_bound_at_launch") != nullptr) place.bound_by = "mpirun";
  } else if (const char* tasks = variable("SLURM_STEP_TASKS_PER_NODE")) {
    place.rank = number_in("SLURM_LOCALID", 0);
    place.ranks = tasks_of_node(tasks, number_in("SLURM_NODEID", 0));
    // "mask_cpu:" and the like: srun has done it. Without such a plugin it says nothing here.
    const char* type = variable("SLURM_CPU_BIND_TYPE");
    const std::string how = type != nullptr ? type : "";
    if (how.find("mask_") != std::string::npos || how.find("map_") != std::string::npos) {
      place.bound_by = "srun";
    }
  }
  place.ranks = std::max(place.ranks, place.rank + 1);
  if (variable("SLURM_JOB_ID") != nullptr) place.granted = number_in("SLURM_CPUS_ON_NODE", 0);
  return place;
}

std::string why_not_held(int granted, int usable, int online) {
  if (granted == 0 || granted >= usable || usable < online) return "";
  return cat("Slurm gave ", granted, " of the ", usable, " CPUs of host ", host_name(),
             " and does not hold the job to them");
}

std::string bind_this_rank(const std::string& bind) {
  if (bind == "none") return "not bound";
  const PlaceOnHost place = place_on_host();
  const CpuSet allowed = allowed_cpus();
  if (!place.bound_by.empty()) {
    return cat("bound by ", place.bound_by, " to ", share_host("auto", 1, allowed).ranks[0].text);
  }
  const std::string why = why_not_held(place.granted, static_cast<int>(allowed.count()),
                                       static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN)));
  if (!why.empty() && bind != "auto")
    fail_input("--bind " + bind, why, "; give --bind auto or none");
  if (!why.empty()) return "not bound: " + why;
  const HostBinding host = share_host(bind, place.ranks, allowed);
  const RankBinding& mine = host.ranks[static_cast<std::size_t>(place.rank)];
  if (!host.this_machine) return "not bound, as if on another machine: " + describe(mine);
  if (mine.cpus.any()) keep_to(mine.cpus);
  show_cuda_only(mine.gpu);
  return describe(mine);
}

}  // namespace peal
