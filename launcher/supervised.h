// What `peal launch --elastic` tells the ranks that it starts: by environment variables.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace peal {

struct Supervised {
  std::string token;                  // marks all ranks of this supervisor
  std::vector<std::string> left_out;  // hosts, each with the reason
};

inline constexpr const char* kTokenVariable = "PEAL_ELASTIC";

// NAME=VALUE for each rank.
std::vector<std::string> environment_of(const Supervised& supervised);
// Nothing where no supervisor has started this process.
std::optional<Supervised> supervised();

}  // namespace peal
