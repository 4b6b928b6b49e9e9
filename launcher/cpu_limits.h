// Which of this host's processors this process may use, and how much of them.
#pragma once

#include <bitset>

namespace peal {

// By the number that Linux gives a processor.
using CpuSet = std::bitset<1024>;

// Its affinity, which a control group narrows. None: the host has more than 1024.
CpuSet allowed_cpus();

// How many of them at a time its control group, or one above it, allows; 0: no limit.
double cpu_quota();

}  // namespace peal
