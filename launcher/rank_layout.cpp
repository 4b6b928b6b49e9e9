#include "launcher/rank_layout.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>
#include <string>

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

}  // namespace peal
