#include "comm/mpi_channel.h"

#include <ifaddrs.h>
#include <net/if.h>

#include <algorithm>
#include <cstring>
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
  const std::string_view bytes(reinterpret_cast<const char*>(mine.data()),
                               mine.size() * sizeof(NetAddress));
  std::vector<std::pair<NetAddress, int>> of_ranks;
  for (int rank = 0; const std::string& theirs : gather_texts(ranks, bytes, "addresses")) {
    for (std::size_t at = 0; at < theirs.size(); at += sizeof(NetAddress)) {
      NetAddress address{};
      std::memcpy(&address, theirs.data() + at, sizeof address);
      of_ranks.emplace_back(address, rank);
    }
    ++rank;
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

std::vector<std::string> gather_texts(MPI_Comm ranks, std::string_view mine,
                                      std::string_view what) {
  int n = 0;
  MPI_Comm_size(ranks, &n);
  const int size = static_cast<int>(mine.size());
  std::vector<int> sizes(static_cast<std::size_t>(n)), begins(sizes.size(), 0);
  check_mpi(MPI_Allgather(&size, 1, MPI_INT, sizes.data(), 1, MPI_INT, ranks), what);
  for (std::size_t r = 1; r < sizes.size(); ++r) begins[r] = begins[r - 1] + sizes[r - 1];
  std::string all(static_cast<std::size_t>(begins.back() + sizes.back()), 0);
  check_mpi(MPI_Allgatherv(mine.data(), size, MPI_CHAR, all.data(), sizes.data(), begins.data(),
                           MPI_CHAR, ranks),
            what);
  std::vector<std::string> texts;
  for (std::size_t r = 0; r < sizes.size(); ++r) {
    texts.push_back(
        all.substr(static_cast<std::size_t>(begins[r]), static_cast<std::size_t>(sizes[r])));
  }
  return texts;
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
