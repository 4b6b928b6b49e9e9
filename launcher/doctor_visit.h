// The hosts that `peal doctor` visits: a probe is started on each, and spoken to, all at the same
// time. A host that does not answer holds up no other.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launcher/dialogue.h"
#include "launcher/host_facts.h"
#include "launcher/hosts.h"

namespace peal {

struct VisitOptions {
  double seconds = 15;  // for a host to be reached and to say what it has
  bool srun = false;    // by Slurm instead of ssh
  std::vector<std::string> folders;
};

// What stands in the way, as doctor_report.h wants it; no text: nothing.
struct Trouble {
  std::string cell, text, remedy;
};

struct FolderVisit {
  std::string write_trouble;
  std::vector<int> missing;  // numbers of hosts whose files this one does not see
  bool asked = false;
};

struct HostVisit {
  HostSlots asked;
  Trouble reach, program;            // on the way to the host; on the way to an answer there
  std::optional<HostFacts> facts;    // as it said
  double skew = 0, skew_error = 0;   // seconds that its clock is ahead of this one's
  std::vector<FolderVisit> folders;  // as in VisitOptions, once shared_folders() has been called
  std::unique_ptr<Dialogue> probe;   // while it answers
};

// Never throws for what a host does.
std::vector<HostVisit> visit_hosts(const std::vector<HostSlots>& hosts,
                                   const VisitOptions& options);

// Each host writes a file into every folder, looks for those of all others and removes them.
void share_folders(std::vector<HostVisit>& visits, const VisitOptions& options);

}  // namespace peal
