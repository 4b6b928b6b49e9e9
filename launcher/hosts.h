// The hosts that a launch names, and how many ranks each takes.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace peal {

struct HostSlots {
  std::string name;
  int slots = 0;  // ranks that it takes
};

// "a:2,b:2"; a host without a number takes `slots`. A hostfile has one host a line, "a slots=2",
// "a:2" or "a"; from # on a line is a comment. Both throw Error(input) that names the place on a
// host that is named twice, a number of slots that is none, an odd name, and no host at all.
std::vector<HostSlots> parse_hosts(const std::string& list, int slots);
std::vector<HostSlots> read_hostfile(const std::filesystem::path& file, int slots);
// The text of one; `where` is its name.
std::vector<HostSlots> parse_hostfile(const std::string& text, const std::string& where, int slots);

// "a:2,b:2"
std::string host_list(const std::vector<HostSlots>& hosts);

// Whether `name` is what this host calls itself: ranks there are started without ssh.
bool is_this_host(const std::string& name);

// ssh (or what OMPI_MCA_plm_rsh_agent says, as for mpirun) as it asks nothing and waits no longer
// than `seconds` for a host to let it in. The host and a command for its shell go behind it.
std::vector<std::string> remote_shell(int seconds = 10);

// Whether ssh (or what OMPI_MCA_plm_rsh_agent says, as for mpirun) reaches every host, and
// `program` lies there. Throws for the first that does not: Error(input) when there is no such host
// or program, Error(peer) when it does not answer.
void check_hosts(const std::vector<HostSlots>& hosts, const std::string& program);

}  // namespace peal
