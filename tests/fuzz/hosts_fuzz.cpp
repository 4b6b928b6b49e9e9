// Any text is a list of hosts, a hostfile, or an Error(input) that names its place: hosts of plain
// names, each once, with 1 to 4096 ranks, which print to what reads as the same. What Slurm tells
// of a job is read whatever it is.
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>

#include "launcher/hosts.h"
#include "launcher/slurm.h"
#include "tests/fuzz/read.h"

namespace {

void check(const std::vector<peal::HostSlots>& hosts) {
  if (hosts.empty()) std::abort();
  std::set<std::string> names;
  for (const peal::HostSlots& host : hosts) {
    if (!names.insert(host.name).second || host.slots < 1 || host.slots > 4096) std::abort();
    if (host.name.find_first_of(" \t\r\n,;:'\"$`\\") != std::string::npos) std::abort();
  }
  const std::string printed = peal::host_list(hosts);
  if (peal::host_list(peal::parse_hosts(printed, 1)) != printed) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  peal::read_or_refuse("--hosts", [&] { check(peal::parse_hosts(text, 2)); });
  peal::read_or_refuse("fuzz", [&] { check(peal::parse_hostfile(text, "fuzz", 2)); });
  (void)peal::has_ended(peal::parse_job_line(text));
  return 0;
}
