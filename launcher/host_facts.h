// What `peal doctor --probe` says of a host, as it travels: one line of JSON, from another machine.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace peal {

struct HostFacts {
  static constexpr std::uint64_t kUnlimited = std::numeric_limits<std::uint64_t>::max();

  struct Library {
    std::string name, version;
  };
  struct Card {  // a network card and one IPv4 address of it
    std::string name, address;
    int bits = 0;  // of the network
    bool up = false;
  };
  struct Resolved {
    std::string name, address;  // none: this host does not know the name
  };
  struct Gpu {
    std::string name, driver;
  };
  struct Folder {
    std::string path, trouble;  // trouble: why it cannot be used
    std::string filesystem;     // "ext4", "nfs", ...
    std::uint64_t free = 0;     // bytes
  };

  std::string host;           // as it calls itself
  std::string build, binary;  // version of the program; hash of its file
  std::vector<Library> libraries;
  std::string cpu, instructions;
  int cores = 0;         // that this process may use
  double cpu_quota = 0;  // cores that its control group may use; 0: no limit
  std::string orted;     // the daemon that mpirun starts on a host; empty: not on PATH
  std::uint64_t files = 0, locked_bytes = 0, core_bytes = 0;  // limits; kUnlimited
  std::uint64_t shm_bytes = 0, shm_free = 0;                  // of /dev/shm
  bool rdma = false;                                          // has an InfiniBand or RoCE card
  std::vector<Card> cards;
  std::vector<Resolved> names;
  std::vector<Gpu> gpus;
  std::string gpu_trouble;
  std::vector<Folder> folders;
};

std::string print_host_facts(const HostFacts& facts);
// Throws Error(input) at `where` for text that is not what print_host_facts prints. Control
// characters come out as '?': people will see it on their terminals.
HostFacts parse_host_facts(std::string_view text, const std::string& where);

// As parse_host_facts does with every text.
std::string printable(std::string text);

}  // namespace peal
