// Any line that a host answers is facts, a clock, a list or a map of the network, or an
// Error(input) at the place that was named; facts and maps print to what reads as the same.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "launcher/doctor_network.h"
#include "launcher/host_facts.h"
#include "launcher/probe_protocol.h"
#include "tests/fuzz/read.h"

namespace {

bool shows_control_characters(const std::string& text) {
  for (const unsigned char c : text) {
    if (c < 0x20 || c == 0x7f) return true;
  }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  peal::read_or_refuse("fuzz", [&] {
    const peal::HostFacts facts = peal::parse_host_facts(text, "fuzz");
    for (const std::string& shown : {facts.host, facts.build, facts.cpu, facts.gpu_trouble}) {
      if (shows_control_characters(shown)) std::abort();
    }
    const std::string printed = peal::print_host_facts(facts);
    if (peal::print_host_facts(peal::parse_host_facts(printed, "printed")) != printed) std::abort();
  });
  peal::read_or_refuse("fuzz", [&] {
    const peal::NetworkMap map = peal::parse_network_map(text, "fuzz");
    for (const std::size_t link : peal::slow_links(map, 0.5)) {
      if (link >= map.links.size()) std::abort();
    }
    const std::string printed = peal::print_network_map(map);
    if (peal::print_network_map(peal::parse_network_map(printed, "printed")) != printed)
      std::abort();
  });
  peal::read_or_refuse("fuzz", [&] {
    if (peal::parse_clock(text, "fuzz") < 0) std::abort();
  });
  peal::read_or_refuse("fuzz", [&] { (void)peal::parse_trouble(text, "fuzz"); });
  peal::read_or_refuse("fuzz", [&] {
    for (const int host : peal::parse_missing(text, "fuzz")) {
      if (host < 0) std::abort();
    }
  });
  return 0;
}
