#include "launcher/doctor_judge.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <map>

#include "core/base/text.h"

namespace peal {
namespace {

using Visits = std::vector<HostVisit>;

constexpr std::uint64_t kFewestFiles = 256, kEnoughFiles = 1024;

std::string rounded(double value, const char* unit) {
  char out[64];
  std::snprintf(out, sizeof out, std::fabs(value) < 10 ? "%.2g %s" : "%.0f %s", value, unit);
  return out;
}

const HostVisit* first_with(const Visits& visits, const std::string& value,
                            const std::function<std::string(const HostFacts&)>& of) {
  for (const HostVisit& visit : visits) {
    if (visit.facts && of(*visit.facts) == value) return &visit;
  }
  return nullptr;
}

// A fault for every host whose value is not the one that most have.
void compare(const Visits& visits, const std::string& check, const std::string& what,
             const std::string& remedy, DoctorReport& report,
             const std::function<std::string(const HostFacts&)>& of,
             const std::string& cell = "other") {
  std::vector<std::string> values;
  for (const HostVisit& visit : visits) {
    if (visit.facts) values.push_back(of(*visit.facts));
  }
  const std::string common = most_common(values);
  const HostVisit* example = first_with(visits, common, of);
  for (const HostVisit& visit : visits) {
    if (!visit.facts) {
      report.unknown(check, visit.asked.name);
    } else if (const std::string own = of(*visit.facts); own == common) {
      report.fine(check, visit.asked.name);
    } else {
      report.fault(check, visit.asked.name,
                   cat(what, " is ", own.empty() ? "not there" : own, " but ", example->asked.name,
                       " has ", common.empty() ? "none" : common),
                   remedy, cell);
    }
  }
}

void judge_reach(const Visits& visits, DoctorReport& report) {
  for (const HostVisit& visit : visits) {
    const auto& [cell, text, remedy] = visit.reach;
    if (text.empty()) {
      report.fine("reached", visit.asked.name, is_this_host(visit.asked.name) ? "here" : "ok");
    } else {
      report.fault("reached", visit.asked.name, text, remedy, cell);
    }
  }
}

void judge_program(const Visits& visits, DoctorReport& report) {
  for (const HostVisit& visit : visits) {
    if (visit.program.text.empty()) continue;
    report.fault("program", visit.asked.name, visit.program.text, visit.program.remedy,
                 visit.program.cell);
  }
  const std::string remedy =
      "copy one build to every host (cluster/bundle.sh makes one folder of it)";
  compare(visits, "program", "peal", remedy, report,
          [](const HostFacts& f) { return cat(f.build, ", its file ", f.binary); });
  std::vector<std::string> names;
  for (const HostVisit& visit : visits) {
    for (const auto& library :
         visit.facts ? visit.facts->libraries : std::vector<HostFacts::Library>{}) {
      if (std::find(names.begin(), names.end(), library.name) == names.end()) {
        names.push_back(library.name);
      }
    }
  }
  for (const std::string& name : names) {
    compare(visits, "libraries", name,
            "install one version on every host, or use a bundle (cluster/bundle.sh)", report,
            [&](const HostFacts& f) -> std::string {
              for (const auto& library : f.libraries) {
                if (library.name == name) return library.version;
              }
              return "";
            });
  }
}

void judge_clocks(const Visits& visits, const DoctorLimits& limits, DoctorReport& report) {
  for (const HostVisit& visit : visits) {
    if (!visit.facts) {
      report.unknown("clock", visit.asked.name);
      continue;
    }
    const double ms = 1000 * visit.skew, error = 1000 * visit.skew_error;
    const std::string cell = rounded(ms, "ms");
    if (std::fabs(visit.skew) - visit.skew_error <= limits.skew_seconds) {
      report.fine("clock", visit.asked.name, std::fabs(ms) < error + 1 ? "ok" : cell);
    } else {
      report.warn("clock", visit.asked.name,
                  cat("its clock is ", rounded(std::fabs(visit.skew), "s"),
                      visit.skew > 0 ? " ahead of" : " behind", " this host's (known to ",
                      rounded(error, "ms"), "); logs and files of hosts do not fit together"),
                  "set the clocks by one time server (chrony, systemd-timesyncd)", cell);
    }
  }
}

void judge_cpus(const Visits& visits, DoctorReport& report) {
  const std::string remedy =
      "the promise of the same bits needs one kind of CPU: take hosts of one kind, or hold all to "
      "the same instructions (DNNL_MAX_CPU_ISA) and do without it";
  compare(visits, "CPU", "its CPU", remedy, report,
          [](const HostFacts& f) { return cat(f.cpu, ", ", f.instructions); });
}

void judge_cores(const Visits& visits, DoctorReport& report) {
  for (const HostVisit& visit : visits) {
    const std::string& host = visit.asked.name;
    if (!visit.facts) {
      report.unknown("cores", host);
      continue;
    }
    const HostFacts& f = *visit.facts;
    const bool limited = f.cpu_quota > 0 && f.cpu_quota < f.cores;
    const double cores = limited ? f.cpu_quota : f.cores;
    const std::string cell = limited ? cat(cores, " of ", f.cores) : std::to_string(f.cores);
    if (visit.asked.slots <= cores) {
      report.fine("cores", host, cell);
    } else {
      report.warn("cores", host,
                  cat(visit.asked.slots, " ranks are asked of ", cores, " cores",
                      limited ? " that its control group may use" : ""),
                  limited ? "give the job more CPU (cpu.max of its control group, or --cpus of the "
                            "container or batch job), or fewer ranks"
                          : "ask for no more ranks than cores",
                  cell);
    }
  }
}

void judge_limits(const HostVisit& visit, bool srun, std::size_t hosts, DoctorReport& report) {
  const std::string& host = visit.asked.name;
  const HostFacts& f = *visit.facts;
  const std::string check = "limits";
  if (f.files < kFewestFiles) {
    report.fault(check, host, cat("a process may open ", f.files, " files; MPI needs more"),
                 "raise nofile in /etc/security/limits.conf (or LimitNOFILE of slurmd) to 65536",
                 cat(f.files, " files"));
  } else if (f.files < kEnoughFiles) {
    report.warn(check, host, cat("a process may open only ", f.files, " files"),
                "raise nofile in /etc/security/limits.conf (or LimitNOFILE of slurmd) to 65536",
                cat(f.files, " files"));
  } else {
    report.fine(check, host);
  }
  if (f.rdma && f.locked_bytes != HostFacts::kUnlimited &&
      f.locked_bytes < std::uint64_t{1} << 30) {
    report.warn(check, host,
                cat("a process may lock ", human_bytes(static_cast<double>(f.locked_bytes)),
                    " of memory; InfiniBand needs more"),
                "set memlock to unlimited in /etc/security/limits.conf (or LimitMEMLOCK of slurmd)",
                "memlock");
  }
  if (!srun && hosts > 1 && f.orted.empty()) {
    report.fault("mpirun", host, "Open MPI's orted is not on PATH of a command that ssh starts",
                 "install Open MPI there (Debian: openmpi-bin), or set PATH where shells without a "
                 "terminal read it (~/.bashrc before it returns, or /etc/environment)",
                 "no orted");
  }
}

void judge_memory(const HostVisit& visit, const DoctorLimits& limits, DoctorReport& report) {
  const std::string& host = visit.asked.name;
  const HostFacts& f = *visit.facts;
  const std::string cell = human_bytes(static_cast<double>(f.shm_free));
  if (f.shm_free >= limits.shm) {
    report.fine("/dev/shm", host, cell);
    return;
  }
  report.fault(
      "/dev/shm", host,
      cat(cell, " of ", human_bytes(static_cast<double>(f.shm_bytes)), " are free; wanted are ",
          human_bytes(static_cast<double>(limits.shm))),
      f.shm_bytes < limits.shm
          ? "make it larger: mount -o remount,size=50% /dev/shm, or --shm-size of the container"
          : "remove what crashed programs left there: ls -l /dev/shm",
      cell);
}

void judge_gpus(const Visits& visits, DoctorReport& report) {
  const auto list = [](const HostFacts& f) {
    std::map<std::string, int> counts;
    for (const auto& gpu : f.gpus) ++counts[gpu.name + ", driver " + gpu.driver];
    std::vector<std::string> words;
    for (const auto& [name, count] : counts) words.push_back(cat(count, " x ", name));
    return words.empty() ? std::string("none") : join(words);
  };
  for (const HostVisit& visit : visits) {
    if (!visit.facts || visit.facts->gpu_trouble.empty()) continue;
    report.fault("GPUs", visit.asked.name, visit.facts->gpu_trouble,
                 "run nvidia-smi there; reset or restart what it names, or leave the host out",
                 "broken");
  }
  compare(visits, "GPUs", "what it has", "take hosts with the same GPUs and driver", report, list);
}

std::uint32_t network_of(const std::string& address, int bits) {
  in_addr parsed{};
  if (::inet_pton(AF_INET, address.c_str(), &parsed) != 1) return 0;
  const std::uint32_t mask = bits <= 0 ? 0 : ~std::uint32_t{0} << (32 - std::min(bits, 32));
  return ntohl(parsed.s_addr) & mask;
}

std::string network_name(const HostFacts::Card& card) {
  in_addr network{};
  network.s_addr = htonl(network_of(card.address, card.bits));
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &network, text, sizeof text);
  return cat(text, "/", card.bits);
}

bool is_wanted(const HostFacts::Card& card, const std::string& interface) {
  const std::size_t slash = interface.find('/');
  if (slash == std::string::npos) return card.name == interface;
  const int bits = std::atoi(interface.c_str() + slash + 1);
  return !card.address.empty() &&
         network_of(card.address, bits) == network_of(interface.substr(0, slash), bits);
}

std::string list_cards(const HostFacts& facts) {
  std::vector<std::string> words;
  for (const HostFacts::Card& card : facts.cards) {
    if (!card.address.empty()) words.push_back(card.name + " " + card.address);
  }
  return words.empty() ? "none" : join(words);
}

// Where ranks are to talk through one card or network: each host must have it, up, and all in one
// network.
void judge_interface(const Visits& visits, const std::string& wanted, DoctorReport& report) {
  std::map<std::string, const HostFacts::Card*> found;
  std::vector<std::string> networks;
  for (const HostVisit& visit : visits) {
    if (!visit.facts) continue;
    for (const HostFacts::Card& card : visit.facts->cards) {
      if (!is_wanted(card, wanted)) continue;
      const HostFacts::Card*& best = found[visit.asked.name];
      if (best == nullptr || best->address.empty()) best = &card;
    }
    const auto card = found.find(visit.asked.name);
    if (card != found.end() && !card->second->address.empty()) {
      networks.push_back(network_name(*card->second));
    }
  }
  const std::string common = most_common(networks);
  for (const HostVisit& visit : visits) {
    const std::string& host = visit.asked.name;
    if (!visit.facts) {
      report.unknown("interface", host);
      continue;
    }
    const auto at = found.find(host);
    if (at == found.end()) {
      report.fault("interface", host, cat("has no ", wanted, "; it has ", list_cards(*visit.facts)),
                   "name a network that all hosts are in, like --interface 10.0.0.0/24", "missing");
    } else if (at->second->address.empty() || !at->second->up) {
      report.fault("interface", host,
                   cat(at->second->name, at->second->up ? " has no IPv4 address" : " is down"),
                   "set it up (ip address, ip link), or choose another --interface", "down");
    } else if (network_name(*at->second) != common) {
      report.fault("interface", host,
                   cat("its ", at->second->name, " is in the network ", network_name(*at->second),
                       " but others are in ", common),
                   "choose an --interface whose addresses are in one network on all hosts",
                   "other network");
    } else {
      report.fine("interface", host, at->second->name);
    }
  }
}

// Without a choice MPI takes all cards: one network must be on every host, and no address on two.
void judge_all_cards(const Visits& visits, DoctorReport& report) {
  std::map<std::string, std::vector<std::string>> in_network, with_address;
  std::size_t answering = 0;
  for (const HostVisit& visit : visits) {
    if (!visit.facts) continue;
    ++answering;
    for (const HostFacts::Card& card : visit.facts->cards) {
      if (card.address.empty() || !card.up) continue;
      auto& hosts = in_network[network_name(card)];
      if (hosts.empty() || hosts.back() != visit.asked.name) hosts.push_back(visit.asked.name);
      with_address[card.name + " " + card.address].push_back(visit.asked.name);
    }
  }
  const bool common =
      answering < 2 || std::any_of(in_network.begin(), in_network.end(),
                                   [&](auto& n) { return n.second.size() == answering; });
  for (const HostVisit& visit : visits) {
    if (!visit.facts) {
      report.unknown("interface", visit.asked.name);
    } else if (!common) {
      report.warn("interface", visit.asked.name,
                  cat("no network is on all hosts; this one has ", list_cards(*visit.facts)),
                  "have the networks routed, or choose hosts of one network");
    } else {
      report.fine("interface", visit.asked.name);
    }
  }
  for (const auto& [card, hosts] : with_address) {
    if (hosts.size() < 2) continue;
    report.warn("interface", hosts[1],
                cat(card, " is the same address as on ", hosts[0],
                    ": MPI may try to reach others "
                    "through it, and hang"),
                "give --interface with the network between the hosts");
  }
}

void judge_names(const Visits& visits, DoctorReport& report) {
  std::map<std::string, std::string> called;
  const auto answers = [&](const std::string& name) {
    return std::any_of(visits.begin(), visits.end(), [&](const HostVisit& visit) {
      return visit.facts && visit.asked.name == name;
    });
  };
  for (const HostVisit& visit : visits) {
    const std::string& host = visit.asked.name;
    if (!visit.facts) {
      report.unknown("names", host);
      continue;
    }
    report.fine("names", host);
    std::vector<std::string> unknown, looped;
    for (const auto& [name, address] : visit.facts->names) {
      if (name == host || !answers(name)) continue;
      if (address.empty()) unknown.push_back(name);
      if (address.starts_with("127.")) looped.push_back(name);
    }
    const std::string remedy = "have one name server, or the same /etc/hosts, on all hosts";
    if (!unknown.empty()) {
      report.warn("names", host, "does not know the hosts " + join(unknown), remedy, "unknown");
    }
    if (!looped.empty()) {
      report.fault("names", host, "takes other hosts for itself (127.*): " + join(looped), remedy,
                   "wrong");
    }
    const auto [other, is_new] = called.emplace(visit.facts->host, host);
    if (!is_new) {
      report.fault(
          "names", host, cat("calls itself '", visit.facts->host, "', as ", other->second, " does"),
          "give each host a name of its own (hostnamectl), and name each once", "same name");
    }
  }
}

void judge_folder(const Visits& visits, std::size_t f, const DoctorQuestion& question,
                  DoctorReport& report) {
  const std::string check = question.folders[f];
  for (const HostVisit& visit : visits) {
    const std::string& host = visit.asked.name;
    if (!visit.facts || f >= visit.facts->folders.size()) {
      report.unknown(check, host);
      continue;
    }
    const HostFacts::Folder& folder = visit.facts->folders[f];
    const std::string cell = human_bytes(static_cast<double>(folder.free));
    if (!folder.trouble.empty()) {
      report.fault(check, host, folder.trouble, "make the folder, or mount the shared file system",
                   "not there");
      continue;
    }
    report.fine(check, host, cell);
    if (folder.free < question.limits.disk) {
      report.fault(check, host,
                   cat(cell, " are free; wanted are ",
                       human_bytes(static_cast<double>(question.limits.disk))),
                   "make room there, or choose another folder", "full");
    }
    if (f >= visit.folders.size() || !visit.folders[f].asked) continue;
    if (!visit.folders[f].write_trouble.empty()) {
      report.fault(check, host, "cannot be written: " + visit.folders[f].write_trouble,
                   "give this user the right to write there, or choose another folder",
                   "not writable");
    }
    std::vector<std::string> missing;
    for (const int other : visit.folders[f].missing) {
      if (static_cast<std::size_t>(other) < visits.size()) {
        missing.push_back(visits[static_cast<std::size_t>(other)].asked.name);
      }
    }
    if (missing.empty()) continue;
    report.fault(check, host,
                 cat("does not see what ", join(missing),
                     " wrote there (its file system: ", folder.filesystem, ")"),
                 "mount one shared file system there on every host", "not shared");
  }
}

}  // namespace

std::string most_common(const std::vector<std::string>& values) {
  std::string best;
  std::ptrdiff_t most = 0;
  for (const std::string& value : values) {
    const auto count = std::count(values.begin(), values.end(), value);
    if (count > most) {
      most = count;
      best = value;
    }
  }
  return best;
}

void judge_visits(const Visits& visits, const DoctorQuestion& question, DoctorReport& report) {
  judge_reach(visits, report);
  judge_program(visits, report);
  judge_clocks(visits, question.limits, report);
  judge_cpus(visits, report);
  judge_cores(visits, report);
  for (const HostVisit& visit : visits) {
    if (visit.facts) {
      judge_limits(visit, question.srun, visits.size(), report);
      judge_memory(visit, question.limits, report);
    } else {
      report.unknown("limits", visit.asked.name);
      report.unknown("/dev/shm", visit.asked.name);
    }
  }
  judge_gpus(visits, report);
  for (std::size_t f = 0; f < question.folders.size(); ++f) {
    judge_folder(visits, f, question, report);
  }
  judge_names(visits, report);
  if (question.interface.empty()) {
    judge_all_cards(visits, report);
  } else {
    judge_interface(visits, question.interface, report);
  }
}

bool fit_for_ranks(const HostVisit& visit, const DoctorReport& report) {
  if (!visit.facts || !visit.program.text.empty()) return false;
  for (const char* check : {"program", "libraries", "names", "interface", "mpirun"}) {
    if (report.at_fault(check, visit.asked.name)) return false;
  }
  return true;
}

}  // namespace peal
