// What this rank runs: ranks compare it before anything else.
#pragma once

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace peal {

// "0.1.0 (sources 0f3a..., compiler 12.2.0)": of the comm layer and what it is built on.
std::string comm_build();

// Of Peal's comm layer and of every library below it whose ranks must be of one version. Any
// thread; MPI need not be initialised.
std::vector<Fact> library_versions();

}  // namespace peal
