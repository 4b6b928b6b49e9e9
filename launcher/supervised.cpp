#include "launcher/supervised.h"

#include <cstdlib>
#include <sstream>

#include "core/base/text.h"

namespace peal {
namespace {

constexpr const char* kLeftOutVariable = "PEAL_ELASTIC_LEFT_OUT";

}  // namespace

// mpirun parts what it is given at semicolons.
std::vector<std::string> environment_of(const Supervised& supervised) {
  return {cat(kTokenVariable, "=", supervised.token),
          cat(kLeftOutVariable, "=", join(supervised.left_out, "|"))};
}

std::optional<Supervised> supervised() {
  const char* token = std::getenv(kTokenVariable);
  if (token == nullptr) return std::nullopt;
  Supervised found{.token = token, .left_out = {}};
  if (const char* left_out = std::getenv(kLeftOutVariable)) {
    std::istringstream hosts(left_out);
    for (std::string host; std::getline(hosts, host, '|');) found.left_out.push_back(host);
  }
  return found;
}

}  // namespace peal
