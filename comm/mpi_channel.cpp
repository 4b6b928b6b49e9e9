#include "comm/mpi_channel.h"

#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <memory>
#include <string>

#include "core/base/error.h"

namespace peal {
namespace {

MPI_Comm duplicate(MPI_Comm ranks) {
  MPI_Comm comm = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(ranks, &comm), "MPI_Comm_dup");
  MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
  return comm;
}

bool is_whole_job(MPI_Comm ranks) {
  int same = MPI_UNEQUAL;
  check_mpi(MPI_Comm_compare(ranks, MPI_COMM_WORLD, &same), "MPI_Comm_compare");
  return same != MPI_UNEQUAL;
}

std::vector<NetAddress> own_addresses() {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return {};
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  std::vector<NetAddress> addresses;
  for (const ifaddrs* one = list; one != nullptr; one = one->ifa_next) {
    if (one->ifa_addr == nullptr || (one->ifa_flags & IFF_LOOPBACK) != 0) continue;
    if (const auto address = net_address(*one->ifa_addr)) addresses.push_back(*address);
  }
  return addresses;
}

// Of all ranks, sorted; a host's addresses are there once for each of its ranks.
std::vector<std::pair<NetAddress, int>> addresses_of_all(MPI_Comm ranks) {
  const std::vector<NetAddress> mine = own_addresses();
  int n = 0;
  MPI_Comm_size(ranks, &n);
  const int bytes = static_cast<int>(mine.size() * sizeof(NetAddress));
  std::vector<int> sizes(static_cast<std::size_t>(n)), begins(sizes.size(), 0);
  check_mpi(MPI_Allgather(&bytes, 1, MPI_INT, sizes.data(), 1, MPI_INT, ranks),
            "exchange of addresses");
  for (std::size_t r = 1; r < sizes.size(); ++r) begins[r] = begins[r - 1] + sizes[r - 1];
  std::vector<NetAddress> all(static_cast<std::size_t>(begins.back() + sizes.back()) /
                              sizeof(NetAddress));
  check_mpi(MPI_Allgatherv(mine.data(), bytes, MPI_BYTE, all.data(), sizes.data(), begins.data(),
                           MPI_BYTE, ranks),
            "exchange of addresses");
  std::vector<std::pair<NetAddress, int>> of_ranks;
  for (std::size_t r = 0, i = 0; r < sizes.size(); ++r) {
    const std::size_t end = i + static_cast<std::size_t>(sizes[r]) / sizeof(NetAddress);
    for (; i < end; ++i) of_ranks.emplace_back(all[i], static_cast<int>(r));
  }
  std::sort(of_ranks.begin(), of_ranks.end());
  return of_ranks;
}

}  // namespace

void check_mpi(int status, std::string_view what) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(status, text, &length);
  throw Error(ErrorKind::peer, std::string(what),
              std::string(text, static_cast<std::size_t>(length)));
}

MpiChannel::MpiChannel(MPI_Comm ranks) : data(duplicate(ranks)), control(duplicate(ranks)) {
  wait_on_broken_connections();  // from here on every wait for a peer has a deadline
  void* value = nullptr;
  int found = 0;
  MPI_Comm_get_attr(data, MPI_TAG_UB, &value, &found);
  highest_tag = found != 0 ? *static_cast<int*>(value) : 32767;  // the least that MPI promises
  if (!is_whole_job(ranks)) return;
  const auto all = addresses_of_all(data);
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool as_before = i > 0 && all[i - 1].first == all[i].first;
    const bool as_after = i + 1 < all.size() && all[i + 1].first == all[i].first;
    if (!as_before && !as_after) alone_.push_back(all[i]);
  }
}

int MpiChannel::gone(const std::vector<int>& among) const {
  if (alone_.empty()) return -1;
  for (int i = 0; const NetAddress* address = broken_connection(i); ++i) {
    const auto at = std::lower_bound(alone_.begin(), alone_.end(), std::pair{*address, 0});
    if (at == alone_.end() || at->first != *address) continue;
    const auto member = std::find(among.begin(), among.end(), at->second);
    if (member != among.end()) return static_cast<int>(member - among.begin());
  }
  return -1;
}

}  // namespace peal
