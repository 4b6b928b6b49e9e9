// The command that starts ranks: mpirun over ssh, or srun inside an allocation of Slurm.
#pragma once

#include <string>
#include <vector>

#include "launcher/hosts.h"

namespace peal {

struct RankPlan {
  int ranks = 0;                         // 0: every slot, or as many as the allocation says
  std::vector<HostSlots> hosts;          // empty: this one; must be under srun
  int ranks_per_host = 0;                // srun only; 0: as the allocation says
  int cores_per_rank = 0;                // srun only; 0: not said
  std::string bind = "auto";             // auto, core, socket, numa, none
  std::string interface;                 // of MPI's TCP: a name or a network; empty: MPI chooses
  std::vector<std::string> environment;  // NAME=VALUE; mpirun also NAME alone
  std::vector<std::string> more;         // other words for mpirun or srun
  // mpirun only: hosts may vanish. None then depends on another, and the ranks end soon.
  bool elastic = false;
};

// `program`: what each rank is, with its arguments. With hosts, mpirun_command throws Error(input)
// when the ranks are more than the slots, and when mpirun lies in a folder whose name needs quotes;
// without, ranks must be > 0.
std::vector<std::string> mpirun_command(const RankPlan& plan,
                                        const std::vector<std::string>& program);
std::vector<std::string> srun_command(const RankPlan& plan,
                                      const std::vector<std::string>& program);

// What tells `peal train` to keep to its share of its host.
std::vector<std::string> bind_words(const RankPlan& plan);

// Of the Open MPI that lies beside this program, as in a bundle; else "mpirun", from PATH.
std::string mpirun_path();

// Whether this process runs inside an allocation of Slurm.
bool in_slurm();

// Throws Error(input) when `interface` is neither a network card of this host nor a network like
// 10.0.0.0/24.
void check_interface(const std::string& interface);
// Throws Error(input) unless each is NAME=VALUE, or the NAME of a variable that is set.
void check_environment(const std::vector<std::string>& environment);

// Throws Error(input) when /dev/shm has so little room that ranks on this host could not talk to
// one another: Open MPI's own words for that do not say what to do. Nothing where the environment
// has it use something else.
void check_shared_memory();

}  // namespace peal
