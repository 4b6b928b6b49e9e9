// The ranks of a supervisor among the processes of this host, told by their environment.
#pragma once

#include <string>
#include <vector>

namespace peal {

// Processes whose token (supervised.h) begins with `prefix`, in ascending order.
std::vector<int> rank_processes(const std::string& prefix);
// Ends all others of this host whose arguments, without the program's name, are these.
void end_processes(const std::vector<std::string>& arguments);
// Ends ranks, stopped ones too, and waits for that up to `seconds`; returns how many are left.
int kill_ranks(const std::string& prefix, double seconds);

}  // namespace peal
