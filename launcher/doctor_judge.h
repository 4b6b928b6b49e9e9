// What is wrong with the hosts, by what they say of themselves and of one another.
#pragma once

#include <string>
#include <vector>

#include "launcher/doctor_report.h"
#include "launcher/doctor_visit.h"

namespace peal {

struct DoctorLimits {
  double skew_seconds = 1;
  std::uint64_t disk = std::uint64_t{1} << 30;  // free bytes in each folder that is given
  // Free bytes in /dev/shm, of which Open MPI maps 4 MiB a rank. Containers have 64 MB or MiB.
  std::uint64_t shm = std::uint64_t{32} << 20;
  double slow = 0.5;            // part of the usual bandwidth below which a link is at fault
  double bytes_per_second = 0;  // that every link must have
};

struct DoctorQuestion {
  std::string interface;  // that the ranks are to use; empty: none in particular
  bool srun = false;      // Slurm starts the ranks
  std::vector<std::string> folders;
  DoctorLimits limits;
};

// The value that most have; of equally common ones the first.
std::string most_common(const std::vector<std::string>& values);

void judge_visits(const std::vector<HostVisit>& visits, const DoctorQuestion& question,
                  DoctorReport& report);

// Whether ranks can be started there beside those of the other hosts.
bool fit_for_ranks(const HostVisit& visit, const DoctorReport& report);

}  // namespace peal
