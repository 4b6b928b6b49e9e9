// Which processors and which GPU each rank of a host keeps to, by the tree of the machine (hwloc).
#pragma once

#include <string>
#include <vector>

#include "launcher/cpu_limits.h"

namespace peal {

struct RankBinding {
  CpuSet cpus;              // none: not bound
  std::string text;         // "CPUs 0-3: 4 cores of socket 0, NUMA node 0"
  int gpu = -1;             // the nearest, in the order of their PCI addresses; -1: there is none
  std::string gpu_address;  // "0000:17:00.0"
};
// "CPUs 0-3: 4 cores of socket 0, NUMA node 0; GPU 0000:17:00.0"
std::string describe(const RankBinding& binding);

struct HostBinding {
  std::vector<RankBinding> ranks;  // by their place on the host
  bool this_machine = true;        // false: HWLOC_XMLFILE or HWLOC_SYNTHETIC names another
};

// How `ranks` ranks of this host share those of its processors that are in `allowed` (of another
// machine, all). Neighbours get processors near each other, and GPUs near them.
//   auto    its cores, cut into runs as equal as can be; processors, where the ranks are more than
//           the cores; all of them share all, where they are more than the processors
//   core    a core each; Error(input) where there are fewer
//   socket, numa  a whole one each, which several ranks share where there are fewer
//   none    nothing
HostBinding share_host(const std::string& bind, int ranks, const CpuSet& allowed);

// What mpirun or srun says of this process in its environment.
struct PlaceOnHost {
  int rank = 0, ranks = 1;  // of its host
  std::string bound_by;     // who has bound each rank by itself already; empty: nobody
  int granted = 0;          // processors of this host that Slurm gave the job; 0: not said
};
PlaceOnHost place_on_host();

// Of `online` processors of a host this process may use `usable`, and Slurm gave the job `granted`:
// says so where nobody knows which those are, else nothing.
std::string why_not_held(int granted, int usable, int online);

// Binds this process as its place says, and says what it keeps to. Before it starts MPI or a
// thread: those inherit. Who was bound already stays so, and "auto" binds nothing where Slurm gave
// a part of the host without holding the job to it. Throws Error(input) as share_host does. The
// nearest GPU becomes the only one that CUDA shows this process, unless CUDA_VISIBLE_DEVICES is
// set.
std::string bind_this_rank(const std::string& bind);

}  // namespace peal
