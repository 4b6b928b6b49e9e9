// What this host is and has, for `peal doctor`.
#pragma once

#include <string>
#include <vector>

#include "launcher/host_facts.h"

namespace peal {

// `folders` are looked at, `names` (of other hosts) are resolved. What cannot be found out is said
// in the facts; throws nothing but for lack of memory. May wait as long as a file system or a name
// server does not answer.
HostFacts gather_facts(const std::vector<std::string>& folders,
                       const std::vector<std::string>& names);

}  // namespace peal
