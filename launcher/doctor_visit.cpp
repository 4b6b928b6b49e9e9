#include "launcher/doctor_visit.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <thread>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "launcher/probe_protocol.h"
#include "launcher/program.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kVisitsAtOnce = 64;  // hosts that are visited at the same time
constexpr int kClockQuestions = 8;
constexpr double kSharedSeconds = 5;  // until a file of another host must be seen
constexpr int kNoProgram = 41;        // exit code of the command on the host
const std::string kHere = "peal-doctor-here";

Dialogue::Time in_seconds(double seconds) {
  return Clock::now() +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

void for_each(std::vector<HostVisit>& visits, const std::function<void(std::size_t)>& work) {
  for (std::size_t begin = 0; begin < visits.size(); begin += kVisitsAtOnce) {
    std::vector<std::thread> threads;
    for (std::size_t i = begin; i < std::min(begin + kVisitsAtOnce, visits.size()); ++i) {
      threads.emplace_back(work, i);
    }
    for (std::thread& thread : threads) thread.join();
  }
}

std::string one_line(const std::string& said) {
  std::string last;
  for (std::size_t begin = 0; begin < said.size();) {
    const std::size_t end = std::min(said.find('\n', begin), said.size());
    const std::string line = said.substr(begin, end - begin);
    if (line.find_first_not_of(" \r\t") != std::string::npos) last = line;
    begin = end + 1;
  }
  while (!last.empty() && (last.back() == '\r' || last.back() == ' ')) last.pop_back();
  return printable(last);
}

// In ssh's own words; a host does not say whether the user or the key is what it does not know.
Trouble ssh_trouble(const std::string& host, const std::string& said) {
  const auto has = [&](const char* text) { return said.find(text) != std::string::npos; };
  const std::string words = one_line(said);
  if (has("REMOTE HOST IDENTIFICATION HAS CHANGED")) {
    return {"other key", "its host key is another than the one that is known here",
            cat("if that host was set up anew: ssh-keygen -R ", host, ", then ssh ", host)};
  }
  if (has("Host key verification failed")) {
    return {"host key", "its host key is not known here (" + words + ")",
            cat("ssh ", host, " once by hand, or ssh-keyscan ", host, " >> ~/.ssh/known_hosts")};
  }
  if (has("Permission denied")) {
    return {"no key", "it takes no key of this user, or has no such user (" + words + ")",
            cat("ssh-copy-id ", host, "; `ssh ", host, " true` must work without a question")};
  }
  if (has("Could not resolve hostname")) {
    return {"no name", "is no host that is known here (" + words + ")",
            "correct the name, or add it to the name server or to /etc/hosts on every host"};
  }
  if (has("Connection refused")) {
    return {"no sshd", "no sshd listens there (" + words + ")", "start its sshd"};
  }
  if (has("during banner exchange") || has("Connection timed out during")) {
    return {"hangs", "takes the connection but its sshd does not answer (" + words + ")",
            "the host hangs or is overloaded: look at its console, restart it, or leave it out"};
  }
  if (has("timed out") || has("No route to host") || has("unreachable")) {
    return {"unreachable", "cannot be reached (" + words + ")",
            "see whether it is up, and its cable, address and firewall; or leave it out"};
  }
  return {"ssh fails", words.empty() ? "ssh fails and says nothing" : "ssh fails: " + words,
          cat("`ssh ", host, " true` must work without a question")};
}

std::vector<std::string> on_host(const std::string& host, const VisitOptions& options,
                                 const std::string& command) {
  if (options.srun) {
    return {"srun",       "--overlap", "--quiet", "--nodes=1", "--ntasks=1", "--mpi=none",
            "--nodelist", host,        "sh",      "-c",        command};
  }
  if (is_this_host(host)) return {"sh", "-c", command};
  std::vector<std::string> words =
      remote_shell(std::max(1, static_cast<int>(std::floor(options.seconds)) - 1));
  words.insert(words.end(), {host, "exec sh -c " + shell_quoted(command)});
  return words;
}

// The next line that is an object, past what a login shell prints.
std::optional<std::string> answer(Dialogue& probe, Dialogue::Time deadline) {
  while (std::optional<std::string> line = probe.hear(deadline)) {
    if (line->starts_with("{")) return line;
  }
  return std::nullopt;
}

// A program that has closed its output is about to end.
bool has_ended(Dialogue& program) {
  return program.closed() && program.finish(in_seconds(5));
}

// Round trip halves: the quickest of some questions bounds the difference best.
void compare_clocks(HostVisit& visit, Dialogue::Time deadline) {
  using Wall = std::chrono::system_clock;
  visit.skew_error = INFINITY;
  for (int i = 0; i < kClockQuestions; ++i) {
    const auto asked = Wall::now();
    visit.probe->say(clock_request());
    const std::optional<std::string> said = answer(*visit.probe, deadline);
    const auto heard = Wall::now();
    if (!said) fail_input(visit.asked.name, "says nothing");
    const double theirs = 1e-6 * static_cast<double>(parse_clock(*said, visit.asked.name));
    const std::chrono::duration<double> begin = asked.time_since_epoch();
    const std::chrono::duration<double> half = (heard - asked) / 2.0;
    if (half.count() >= visit.skew_error) continue;
    visit.skew_error = half.count();
    visit.skew = theirs - (begin + half).count();
  }
}

std::string version_there(const HostVisit& visit, const VisitOptions& options) {
  Dialogue program(on_host(visit.asked.name, options, shell_quoted(own_path()) + " --version"));
  const Dialogue::Time deadline = in_seconds(options.seconds);
  const std::optional<std::string> line = program.hear(deadline);
  return line && program.finish(deadline) && program.code() == 0 ? printable(*line) : "";
}

// Why a probe that was reached does not answer as it should.
Trouble program_trouble(HostVisit& visit, const VisitOptions& options) {
  const std::string same = "put the same build at " + own_path() +
                           " on every host (cluster/bundle.sh makes one folder of it)";
  if (!has_ended(*visit.probe)) {
    return {"hangs", cat("the program there does not answer within ", options.seconds, " s"),
            "see what it waits for there, often a network file system or name server that hangs"};
  }
  const int code = visit.probe->code();
  const std::string said = one_line(visit.probe->error());
  if (code == kNoProgram) return {"missing", "has no program " + own_path(), same};
  const std::string version = version_there(visit, options);
  if (!version.empty()) {
    return {"other", cat("its peal is another version, which knows no such probe: ", version),
            same};
  }
  return {"broken", cat("the program there cannot run (exit code ", code, "): ", said),
          "install what its message names there, or use a bundle (cluster/bundle.sh)"};
}

// Whether the command has begun on the host.
bool arrived(HostVisit& visit, const VisitOptions& options, Dialogue::Time deadline) {
  while (const std::optional<std::string> line = visit.probe->hear(deadline)) {
    if (line->ends_with(kHere)) return true;
  }
  const std::string& host = visit.asked.name;
  if (!has_ended(*visit.probe)) {
    visit.reach = {"hangs", cat("does not let this host in within ", options.seconds, " s"),
                   "the host hangs or is overloaded: look at its console, or leave it out"};
  } else if (visit.probe->code() == 127) {
    visit.reach = {"cannot ask", one_line(visit.probe->error()),
                   options.srun ? "Slurm's srun must be on PATH" : "ssh must be on PATH"};
  } else if (options.srun) {
    visit.reach = {"srun fails",
                   "srun does not start a task there: " + one_line(visit.probe->error()),
                   cat("see scontrol show node ", host, " and the log of its slurmd")};
  } else {
    visit.reach = ssh_trouble(host, visit.probe->error());
  }
  return false;
}

void visit_host(HostVisit& visit, const std::vector<std::string>& names,
                const VisitOptions& options) {
  const Dialogue::Time deadline = in_seconds(options.seconds);
  const std::string program = shell_quoted(own_path());
  visit.probe =
      std::make_unique<Dialogue>(on_host(visit.asked.name, options,
                                         cat("echo ", kHere, "; test -x ", program, " || exit ",
                                             kNoProgram, "; exec ", program, " doctor --probe")));
  if (!arrived(visit, options, deadline)) {
    visit.probe.reset();
    return;
  }
  try {
    visit.probe->say(facts_request(options.folders, names));
    const std::optional<std::string> said = answer(*visit.probe, deadline);
    if (!said) {
      visit.program = program_trouble(visit, options);
      visit.probe.reset();
      return;
    }
    visit.facts = parse_host_facts(*said, "its answer");
    compare_clocks(visit, deadline);
  } catch (const Error& error) {
    visit.facts.reset();
    visit.program = {"other", cat("its peal does not answer as this one: ", error.what()),
                     "put the same build at " + own_path() + " on every host"};
    visit.probe.reset();
  }
}

// Asks all hosts that answer, and lets go of those that do not any more.
void ask_all(std::vector<HostVisit>& visits, double seconds,
             const std::function<std::string(std::size_t)>& request,
             const std::function<void(std::size_t, const std::string&)>& use) {
  for_each(visits, [&](std::size_t i) {
    HostVisit& visit = visits[i];
    if (!visit.probe) return;
    visit.probe->say(request(i));
    const std::optional<std::string> said = answer(*visit.probe, in_seconds(seconds));
    try {
      if (!said) fail_input("it", "has fallen silent");
      use(i, *said);
    } catch (const Error& error) {
      visit.program = {"hangs", cat("when it wrote and read files: ", error.what()),
                       "see which of its file systems hangs"};
      visit.probe.reset();
    }
  });
}

void share_folder(std::vector<HostVisit>& visits, std::size_t f, Tokens tokens,
                  const VisitOptions& options) {
  const auto each = [&](std::size_t i) -> FolderVisit& { return visits[i].folders[f]; };
  ask_all(
      visits, options.seconds,
      [&](std::size_t i) {
        Tokens own = tokens;
        own.hosts = {static_cast<int>(i)};
        return write_request(own);
      },
      [&](std::size_t i, const std::string& said) {
        each(i).write_trouble = parse_trouble(said, "its answer");
        each(i).asked = true;
      });
  for (std::size_t i = 0; i < visits.size(); ++i) {
    if (visits[i].probe && each(i).write_trouble.empty())
      tokens.hosts.push_back(static_cast<int>(i));
  }
  ask_all(
      visits, options.seconds + kSharedSeconds,
      [&](std::size_t) { return read_request(tokens, kSharedSeconds); },
      [&](std::size_t i, const std::string& said) {
        each(i).missing = parse_missing(said, "its answer");
      });
  ask_all(
      visits, options.seconds, [&](std::size_t) { return remove_request(tokens); },
      [](std::size_t, const std::string& said) { parse_trouble(said, "its answer"); });
}

}  // namespace

std::vector<HostVisit> visit_hosts(const std::vector<HostSlots>& hosts,
                                   const VisitOptions& options) {
  std::vector<HostVisit> visits;
  std::vector<std::string> names;
  for (const HostSlots& host : hosts) {
    visits.push_back({.asked = host});
    names.push_back(host.name);
  }
  for_each(visits, [&](std::size_t i) { visit_host(visits[i], names, options); });
  return visits;
}

void share_folders(std::vector<HostVisit>& visits, const VisitOptions& options) {
  std::random_device random;
  for (HostVisit& visit : visits) visit.folders.resize(options.folders.size());
  for (std::size_t f = 0; f < options.folders.size(); ++f) {
    const std::uint64_t token = (std::uint64_t{random()} << 32) | random();
    share_folder(visits, f, {.folder = options.folders[f], .token = hex(token), .hosts = {}},
                 options);
  }
}

}  // namespace peal
