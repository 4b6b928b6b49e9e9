#include "launcher/rank_layout.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <string>

#include "launcher/binding.h"

namespace peal {
namespace {

constexpr std::size_t kLength = 64;
using Name = std::array<char, kLength>;

Name name_of_host() {
  Name name{};
  ::gethostname(name.data(), kLength - 1);
  return name;
}

Name name_of_kernel() {
  Name name = name_of_host();  // where nothing else is known, each host is a machine
  std::string id;
  if (std::ifstream("/proc/sys/kernel/random/boot_id") >> id) {
    name = {};
    std::memcpy(name.data(), id.data(), std::min(id.size(), kLength - 1));
  }
  return name;
}

// By rank: how many different names came before the first of this one.
std::vector<int> numbers(Communicator& comm, Name mine) {
  const auto n = static_cast<std::size_t>(comm.world_size());
  std::vector<Name> all(n);
  Stream s;
  comm.wait(s, comm.all_gather(s, "host names", {mine.data(), {kLength}, DType::u8},
                               {all.data(), {static_cast<std::int64_t>(n * kLength)}, DType::u8}));
  std::vector<Name> known;
  std::vector<int> number(n);
  for (std::size_t r = 0; r < n; ++r) {
    const auto found = std::find(known.begin(), known.end(), all[r]);
    number[r] = static_cast<int>(found - known.begin());
    if (found == known.end()) known.push_back(all[r]);
  }
  return number;
}

}  // namespace

int share_of_cpus(std::span<const CpuSet> allowed, std::size_t rank, double limit) {
  double share = 0;
  for (std::size_t cpu = 0; cpu < allowed[rank].size(); ++cpu) {
    if (!allowed[rank].test(cpu)) continue;
    share += 1.0 / static_cast<double>(
                       std::count_if(allowed.begin(), allowed.end(),
                                     [&](const CpuSet& other) { return other.test(cpu); }));
  }
  if (limit > 0) share = std::min(share, limit / static_cast<double>(allowed.size()));
  return std::max(1, static_cast<int>(share + 1e-6));
}

int cpus_of_rank(Communicator& comm) {
  const auto n = static_cast<std::size_t>(comm.world_size());
  CpuSet mine = allowed_cpus();
  std::vector<CpuSet> all(n), here;
  Stream s;
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof mine);
  comm.wait(s, comm.all_gather(s, "processors", {&mine, {kBytes}, DType::u8},
                               {all.data(), {static_cast<std::int64_t>(n) * kBytes}, DType::u8}));
  const std::vector<int> hosts = numbers(comm, name_of_host());
  const auto me = static_cast<std::size_t>(comm.rank());
  std::size_t place = 0;
  for (std::size_t r = 0; r < n; ++r) {
    if (hosts[r] != hosts[me]) continue;
    if (r == me) place = here.size();
    here.push_back(all[r]);
  }
  double limit = cpu_quota();
  const int granted = place_on_host().granted;
  if (granted > 0 && (limit == 0 || granted < limit)) limit = granted;
  return share_of_cpus(here, place, limit);
}

RankLayout find_hosts(Communicator& comm) {
  RankLayout layout{numbers(comm, name_of_host()), numbers(comm, name_of_kernel()), {}};
  const int n = comm.world_size();
  std::vector<int> sizes;
  for (const int host : layout.hosts) {
    sizes.resize(std::max(sizes.size(), static_cast<std::size_t>(host) + 1));
    ++sizes[static_cast<std::size_t>(host)];
  }
  const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
  layout.spread = {n, static_cast<int>(sizes.size()), *most, *least};
  return layout;
}

std::vector<std::string> host_names(Communicator& comm) {
  constexpr std::size_t kRoom = 64;
  std::array<char, kRoom> own{};
  gethostname(own.data(), kRoom - 1);
  std::vector<char> all(kRoom * static_cast<std::size_t>(comm.world_size()));
  Stream stream;
  const auto bytes = [](std::int64_t n, char* data) {
    return Tensor{.data = data, .shape = {n}, .dtype = DType::u8};
  };
  comm.wait(stream, comm.all_gather(stream, "hosts", bytes(kRoom, own.data()),
                                    bytes(static_cast<std::int64_t>(all.size()), all.data())));
  std::vector<std::string> names;
  for (std::size_t r = 0; r < all.size(); r += kRoom) names.emplace_back(&all[r]);
  return names;
}

}  // namespace peal
