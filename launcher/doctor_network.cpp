#include "launcher/doctor_network.h"

#include <algorithm>
#include <cmath>
#include <csignal>
#include <map>

#include "core/base/error.h"
#include "launcher/program.h"
#include "launcher/start_ranks.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

const std::string kMpi = "MPI", kNetwork = "network";

std::string speed(double bytes_per_second) {
  return human_bytes(bytes_per_second) + "/s";
}

std::string microseconds(double seconds) {
  return cat(std::lround(1e6 * seconds), " us");
}

struct RanksRun {
  std::vector<std::string> started;  // hosts, as they call themselves
  std::optional<NetworkMap> map;
  bool ended = false;
  int code = 0;
  std::string said;  // the line that tells most of what went wrong
};

std::vector<std::string> rank_command(const std::vector<const HostVisit*>& fit,
                                      const DoctorQuestion& question, double seconds) {
  RankPlan plan;
  plan.interface = question.interface;
  plan.bind = "none";
  plan.ranks = static_cast<int>(fit.size());
  const std::vector<std::string> program = {own_path(), "doctor", "--measure", "--deadline",
                                            cat(seconds)};
  std::vector<std::string> names;
  for (const HostVisit* visit : fit) {
    names.push_back(visit->asked.name);
    plan.hosts.push_back({visit->asked.name, 1});
  }
  if (question.srun) {
    plan.ranks_per_host = 1;
    plan.more = {"--overlap", cat("--nodes=", names.size()), "--nodelist=" + join(names, ",")};
    return srun_command(plan, program);
  }
  // A host that is named as the only one may still be this one, which needs no ssh.
  if (names.size() == 1 && is_this_host(names[0])) plan.hosts.clear();
  return mpirun_command(plan, program);
}

// What Peal says before anything that MPI says.
std::string telling_line(const std::string& text) {
  std::string first, ours;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = printable(text.substr(begin, end - begin));
    const bool words =
        std::any_of(line.begin(), line.end(), [](unsigned char c) { return std::isalnum(c) != 0; });
    if (ours.empty() && line.starts_with("peal: ")) ours = line.substr(6);
    if (first.empty() && words) first = line;
    begin = end + 1;
  }
  return ours.empty() ? first : ours;
}

RanksRun run_doctor_ranks(const std::vector<std::string>& words, double seconds) {
  RanksRun run;
  const Dialogue::Time deadline =
      Clock::now() + std::chrono::milliseconds(static_cast<std::int64_t>(1000 * seconds));
  Dialogue ranks(words);
  while (const std::optional<std::string> line = ranks.hear(deadline)) {
    const std::string started = "started on ";
    if (line->starts_with(started)) {
      run.started.push_back(printable(line->substr(started.size())));
    } else if (line->starts_with("{")) {
      run.map = parse_network_map(*line, "what the ranks measured");
    }
  }
  run.ended = ranks.finish(std::max(deadline, Clock::now() + std::chrono::milliseconds(100)));
  if (!run.ended) {
    ranks.send_signal(SIGTERM);
    ranks.finish(Clock::now() + std::chrono::seconds(3));
  }
  run.code = ranks.code();
  run.said = telling_line(ranks.error());
  return run;
}

// mpirun's trouble with some host, or the ranks' with one another.
void judge_failure(const RanksRun& run, const std::vector<const HostVisit*>& fit, double seconds,
                   bool srun, DoctorReport& report) {
  const std::string starter = srun ? "srun" : "mpirun";
  const std::string how = run.ended ? cat("ended with exit code ", run.code, ": ", run.said)
                                    : cat("did not end within ", seconds, " s",
                                          run.said.empty() ? "" : ": " + run.said);
  std::size_t silent = 0;
  for (const HostVisit* visit : fit) {
    const bool started =
        std::find(run.started.begin(), run.started.end(), visit->facts->host) != run.started.end();
    silent += started ? 0 : 1;
  }
  const std::string firewall =
      "let the hosts reach one another on all TCP ports, in both directions";
  for (const HostVisit* visit : fit) {
    const std::string& host = visit->asked.name;
    const bool started =
        std::find(run.started.begin(), run.started.end(), visit->facts->host) != run.started.end();
    if (started || silent == fit.size()) {
      report.unknown(kMpi, host, started ? "started" : "-");
    } else {
      report.fault(kMpi, host, cat(starter, " started no rank there; it ", how),
                   firewall + (srun ? "; see the log of its slurmd"
                                    : "; try " + starter + " there by hand"));
    }
  }
  if (silent == 0 || silent == fit.size()) {
    report.fault(kMpi, "",
                 cat(silent == 0 ? "ranks started on all hosts but did not come together; "
                                 : "no rank started; ",
                     starter, " ", how),
                 run.code == 127
                     ? (srun ? "Slurm's srun must be on PATH (Debian: slurm-client)"
                             : "Open MPI's mpirun must be on PATH (Debian: openmpi-bin)")
                     : firewall + "; give --interface with the network between them");
  }
}

// Which part of a host's links is at fault in one direction; all of them: the host is.
struct Direction {
  std::vector<std::string> slow;  // others
  int measured = 0;
  double worst = INFINITY;  // bytes per second
  double latest = 0;        // seconds
};

void add_link(Direction& direction, const std::string& other, const LinkSpeed& link, bool slow) {
  if (link.bytes_per_second <= 0) return;
  ++direction.measured;
  if (!slow) return;
  direction.slow.push_back(other);
  direction.worst = std::min(direction.worst, link.bytes_per_second);
  direction.latest = std::max(direction.latest, link.seconds);
}

void judge_links(const NetworkMap& map, const std::vector<std::string>& names,
                 const DoctorLimits& limits, DoctorReport& report) {
  const std::size_t n = names.size();
  std::vector<std::size_t> slow = slow_links(map, limits.slow);
  for (std::size_t i = 0; i < map.links.size(); ++i) {
    const double bandwidth = map.links[i].bytes_per_second;
    if (bandwidth > 0 && bandwidth < limits.bytes_per_second) slow.push_back(i);
  }
  const auto is_slow = [&](std::size_t from, std::size_t to) {
    return std::find(slow.begin(), slow.end(), from * n + to) != slow.end();
  };
  std::vector<Direction> sends(n), receives(n);
  for (std::size_t a = 0; a < n; ++a) {
    for (std::size_t b = 0; b < n; ++b) {
      add_link(sends[a], names[b], map.link(a, b), is_slow(a, b));
      add_link(receives[b], names[a], map.link(a, b), is_slow(a, b));
    }
  }
  const std::string remedy =
      "look at the cable, the port of the switch, the speed of the card (ethtool) and what else "
      "uses the link";
  const auto whole = [](const Direction& d) {
    return d.measured > 1 && d.slow.size() == static_cast<std::size_t>(d.measured);
  };
  const auto figures = [](const LinkSpeed& link) {
    return cat(speed(link.bytes_per_second), ", ", microseconds(link.seconds));
  };
  for (std::size_t a = 0; a < n; ++a) {
    for (const auto& [direction, verb] :
         {std::pair(&sends[a], "it sends"), std::pair(&receives[a], "it receives")}) {
      if (!whole(*direction)) continue;
      report.fault(kNetwork, names[a],
                   cat("what ", verb, " is slow with every other host: at worst ",
                       speed(direction->worst), ", ", microseconds(direction->latest)),
                   remedy, "slow");
    }
    for (std::size_t b = 0; b < n; ++b) {
      if (!is_slow(a, b) || whole(sends[a]) || whole(receives[b])) continue;
      report.fault(kNetwork, names[a], cat("to ", names[b], " is slow: ", figures(map.link(a, b))),
                   remedy, "slow");
    }
  }
}

void judge_map(const NetworkMap& map, const std::vector<const HostVisit*>& fit,
               const DoctorLimits& limits, DoctorReport& report) {
  std::vector<std::string> names;  // as the user calls them
  for (const std::string& host : map.hosts) {
    const auto found = std::find_if(
        fit.begin(), fit.end(), [&](const HostVisit* visit) { return visit->facts->host == host; });
    names.push_back(found == fit.end() ? host : (*found)->asked.name);
    report.fine(kMpi, names.back());
  }
  const std::size_t n = names.size();
  for (std::size_t a = 0; a < n; ++a) {
    double slowest = INFINITY, latest = 0;
    for (std::size_t b = 0; b < n; ++b) {
      for (const LinkSpeed& link : {map.link(a, b), map.link(b, a)}) {
        if (link.bytes_per_second <= 0) continue;
        slowest = std::min(slowest, link.bytes_per_second);
        latest = std::max(latest, link.seconds);
      }
      const LinkSpeed& link = map.link(a, b);
      if (link.bytes_per_second > 0) {
        report.add({names[a], names[b], 1e6 * link.seconds, link.bytes_per_second});
      }
    }
    if (latest > 0) report.fine(kNetwork, names[a], speed(slowest) + " " + microseconds(latest));
  }
  judge_links(map, names, limits, report);
}

}  // namespace

void check_network(const std::vector<HostVisit>& visits, const DoctorQuestion& question,
                   double seconds, DoctorReport& report) {
  std::vector<const HostVisit*> fit;
  for (const HostVisit& visit : visits) {
    if (fit_for_ranks(visit, report)) {
      fit.push_back(&visit);
    } else {
      report.unknown(kMpi, visit.asked.name, "not tried");
    }
  }
  if (fit.empty()) return;
  const double all = seconds + 10 + 2 * static_cast<double>(std::min<std::size_t>(fit.size(), 64));
  try {
    const RanksRun run = run_doctor_ranks(rank_command(fit, question, seconds), all);
    if (run.map && run.ended && run.code == 0) {
      judge_map(*run.map, fit, question.limits, report);
    } else {
      judge_failure(run, fit, all, question.srun, report);
    }
  } catch (const Error& error) {
    report.fault(kMpi, "", error.what(), "run it again; if it stays, report it");
  }
}

}  // namespace peal
