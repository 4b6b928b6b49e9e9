#include "launcher/gather_facts.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "comm/tuning.h"
#include "comm/versions.h"
#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/kernels/kernels.h"
#include "launcher/cpu_limits.h"
#include "launcher/dialogue.h"
#include "launcher/program.h"
#include "launcher/start_ranks.h"
#include "launcher/version.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

std::string binary_hash() {
  try {
    const MappedFile file("/proc/self/exe");
    return hex(xxh64(file.data(), file.size()));
  } catch (const Error& error) {
    return error.message();
  }
}

std::vector<HostFacts::Library> libraries() {
  std::vector<HostFacts::Library> out = {{"oneDNN", onednn_version()}};
  for (const Fact& fact : library_versions()) out.push_back({fact.name, fact.value});
  return out;
}

int usable_cores() {
  const auto allowed = static_cast<int>(allowed_cpus().count());
  return allowed > 0 ? allowed : static_cast<int>(::sysconf(_SC_NPROCESSORS_ONLN));
}

std::string orted_path() {
  std::istringstream folders(mpirun_path().find('/') != std::string::npos
                                 ? fs::path(mpirun_path()).parent_path().string()
                                 : std::string(std::getenv("PATH") ? std::getenv("PATH") : ""));
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string path = folder + "/orted";
    if (::access(path.c_str(), X_OK) == 0) return path;
  }
  return "";
}

std::uint64_t limit(__rlimit_resource which) {
  rlimit now{};
  if (::getrlimit(which, &now) != 0 || now.rlim_cur == RLIM_INFINITY) return HostFacts::kUnlimited;
  return now.rlim_cur;
}

std::vector<HostFacts::Card> cards() {
  std::vector<HostFacts::Card> out;
  ifaddrs* all = nullptr;
  if (::getifaddrs(&all) != 0) return out;
  for (const ifaddrs* at = all; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_LOOPBACK) != 0) continue;
    HostFacts::Card card{.name = at->ifa_name,
                         .up = (at->ifa_flags & IFF_UP) != 0 && (at->ifa_flags & IFF_RUNNING) != 0};
    if (at->ifa_addr->sa_family == AF_INET) {
      char text[INET_ADDRSTRLEN] = {};
      ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr, text,
                  sizeof text);
      card.address = text;
      if (at->ifa_netmask != nullptr) {
        card.bits =
            std::popcount(reinterpret_cast<const sockaddr_in*>(at->ifa_netmask)->sin_addr.s_addr);
      }
    } else if (at->ifa_addr->sa_family != AF_PACKET) {
      continue;
    }
    out.push_back(std::move(card));
  }
  ::freeifaddrs(all);
  return out;
}

std::string address_of(const std::string& name) {
  addrinfo hints{};
  hints.ai_family = AF_INET;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(name.c_str(), nullptr, &hints, &found) != 0 || found == nullptr) return "";
  char text[INET_ADDRSTRLEN] = {};
  ::inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(found->ai_addr)->sin_addr, text,
              sizeof text);
  ::freeaddrinfo(found);
  return text;
}

// nvidia-smi hangs where a GPU or its driver is sick.
void look_for_gpus(HostFacts& facts) {
  Dialogue smi({"nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"});
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(8);
  while (const std::optional<std::string> line = smi.hear(deadline)) {
    const std::size_t comma = line->rfind(", ");
    if (comma == std::string::npos) continue;
    facts.gpus.push_back({.name = line->substr(0, comma), .driver = line->substr(comma + 2)});
  }
  const bool devices = fs::exists("/dev/nvidiactl") || fs::exists("/proc/driver/nvidia/version");
  if (!smi.finish(deadline)) {
    facts.gpu_trouble = "nvidia-smi does not answer";
  } else if (smi.code() == 127) {
    if (devices) facts.gpu_trouble = "a driver of NVIDIA is loaded but nvidia-smi is not there";
  } else if (smi.code() != 0) {
    facts.gpu_trouble = cat("nvidia-smi ends with exit code ", smi.code());
  }
}

std::string filesystem_name(decltype(statfs::f_type) type) {
  static const std::map<std::uint32_t, const char*> kNames = {
      {0x6969, "nfs"},        {0x01021994, "tmpfs"},  {0xEF53, "ext4"},
      {0x58465342, "xfs"},    {0x9123683E, "btrfs"},  {0x794c7630, "overlay"},
      {0x0BD00BD0, "lustre"}, {0x19830326, "beegfs"}, {0x47504653, "gpfs"},
      {0x00c36400, "ceph"},   {0x65735546, "fuse"},   {0x2FC12FC1, "zfs"},
      {0xFF534D42, "cifs"},   {0xFE534D42, "smb"}};
  const auto found = kNames.find(static_cast<std::uint32_t>(type));
  return found == kNames.end() ? cat("type ", hex(static_cast<std::uint32_t>(type)).substr(8))
                               : found->second;
}

HostFacts::Folder look_at(const std::string& path) {
  HostFacts::Folder folder{.path = path};
  struct statfs space {};
  if (::statfs(path.c_str(), &space) != 0) {
    folder.trouble = std::strerror(errno);
    return folder;
  }
  folder.filesystem = filesystem_name(space.f_type);
  folder.free =
      static_cast<std::uint64_t>(space.f_bavail) * static_cast<std::uint64_t>(space.f_bsize);
  if (!fs::is_directory(path)) folder.trouble = "is no folder";
  return folder;
}

}  // namespace

HostFacts gather_facts(const std::vector<std::string>& folders,
                       const std::vector<std::string>& names) {
  HostFacts facts;
  char own[256] = {};
  ::gethostname(own, sizeof own - 1);
  facts.host = own;
  facts.build = build();
  facts.binary = binary_hash();
  facts.libraries = libraries();
  facts.cpu = cpu_name();
  facts.instructions = onednn_instructions();
  facts.cores = usable_cores();
  facts.cpu_quota = cpu_quota();
  facts.orted = orted_path();
  facts.files = limit(RLIMIT_NOFILE);
  facts.locked_bytes = limit(RLIMIT_MEMLOCK);
  facts.core_bytes = limit(RLIMIT_CORE);
  struct statfs shm {};
  if (::statfs("/dev/shm", &shm) == 0) {
    const auto block = static_cast<std::uint64_t>(shm.f_bsize);
    facts.shm_bytes = static_cast<std::uint64_t>(shm.f_blocks) * block;
    facts.shm_free = static_cast<std::uint64_t>(shm.f_bavail) * block;
  }
  std::error_code none;
  facts.rdma = fs::is_directory("/sys/class/infiniband", none) &&
               !fs::is_empty("/sys/class/infiniband", none);
  facts.cards = cards();
  for (const std::string& name : names) facts.names.push_back({name, address_of(name)});
  look_for_gpus(facts);
  for (const std::string& folder : folders) facts.folders.push_back(look_at(folder));
  return facts;
}

}  // namespace peal
