// The network between the hosts of `peal doctor`, as ranks that MPI has started find it.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "launcher/doctor_judge.h"
#include "launcher/doctor_visit.h"

namespace peal {

// One direction between two ranks.
struct LinkSpeed {
  double seconds = 0;           // of a short message, one way
  double bytes_per_second = 0;  // of long ones
};

// links[from * hosts.size() + to]; zeros where it was not measured, as from a host to itself.
struct NetworkMap {
  std::vector<std::string> hosts;  // as the ranks' hosts call themselves
  std::vector<LinkSpeed> links;

  const LinkSpeed& link(std::size_t from, std::size_t to) const {
    return links[from * hosts.size() + to];
  }
};

std::string print_network_map(const NetworkMap& map);
// Throws Error(input) at `where` for text that print_network_map does not print.
NetworkMap parse_network_map(std::string_view text, const std::string& where);

// The links that are far slower than is usual, as from * hosts + to. Usual is what the median host
// has on its best link, so that one slow host makes no other one look slow, however few they are.
std::vector<std::size_t> slow_links(const NetworkMap& map, double part);

// `peal doctor --measure`: one rank a host. Says that it has started; measures each pair of ranks,
// both ways, many pairs at a time but no rank in two; rank 0 prints the map.
void measure_as_rank(double deadline_seconds);

// Starts those ranks on the visited hosts that are fit for it and judges what comes of it.
void check_network(const std::vector<HostVisit>& visits, const DoctorQuestion& question,
                   double seconds, DoctorReport& report);

}  // namespace peal
