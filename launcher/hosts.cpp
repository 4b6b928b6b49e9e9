#include "launcher/hosts.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <sstream>

#include "core/base/error.h"
#include "core/base/file.h"
#include "launcher/program.h"

namespace peal {
namespace {

constexpr int kMostSlots = 4096;
constexpr std::size_t kAskedAtOnce = 64;  // hosts that are asked at the same time

int parse_slots(const std::string& text, const std::string& where) {
  int slots = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), slots);
  if (error != std::errc() || end != text.data() + text.size() || slots < 1 || slots > kMostSlots) {
    fail_input(where, "'", text, "' slots; allowed are 1 to ", kMostSlots);
  }
  return slots;
}

// "a" or "a:2"
HostSlots parse_host(const std::string& text, int slots, const std::string& where) {
  const std::size_t colon = text.find(':');
  HostSlots host{text.substr(0, colon), slots};
  const bool plain = std::all_of(host.name.begin(), host.name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '.' || c == '-' || c == '_';
  });
  if (host.name.empty() || host.name[0] == '-' || !plain) {
    fail_input(where, "'", text, "' is no host; write it like node1 or node1:4");
  }
  if (colon != std::string::npos) {
    host.slots = parse_slots(text.substr(colon + 1), cat(where, ": ", host.name));
  }
  return host;
}

void add(std::vector<HostSlots>& hosts, HostSlots host, const std::string& where) {
  for (const HostSlots& other : hosts) {
    if (other.name == host.name) {
      fail_input(where, "host '", host.name, "' is named twice; name it once, with all its slots");
    }
  }
  hosts.push_back(std::move(host));
}

std::string last_line(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
    text.pop_back();
  }
  return text.substr(text.rfind('\n') + 1);
}

void judge(const std::string& host, const std::string& program, const Outcome& outcome) {
  if (outcome.code == 0) return;
  if (outcome.code == 1) fail_input(host, "has no program ", program, "; it must lie there too");
  const std::string said = last_line(outcome.error);
  if (outcome.code == 127) fail_input(host, "cannot be asked: ", said);
  if (said.find("Could not resolve hostname") != std::string::npos) {
    fail_input(host, "is no host that is known here: ", said);
  }
  throw Error(ErrorKind::peer, host,
              cat("cannot be reached: ", said.empty() ? cat("exit code ", outcome.code) : said,
                  "; `ssh ", host, " true` must work without a question"));
}

}  // namespace

std::vector<HostSlots> parse_hosts(const std::string& list, int slots) {
  std::vector<HostSlots> hosts;
  for (std::size_t begin = 0; begin <= list.size();) {
    const std::size_t end = std::min(list.find(',', begin), list.size());
    add(hosts, parse_host(list.substr(begin, end - begin), slots, "--hosts"), "--hosts");
    begin = end + 1;
  }
  return hosts;
}

std::vector<HostSlots> read_hostfile(const std::filesystem::path& file, int slots) {
  return parse_hostfile(read_file(file), file.string(), slots);
}

std::vector<HostSlots> parse_hostfile(const std::string& text, const std::string& file, int slots) {
  std::vector<HostSlots> hosts;
  std::istringstream lines(text);
  int number = 0;
  for (std::string line; std::getline(lines, line);) {
    const std::string where = cat(file, ":", ++number);
    std::istringstream words(line.substr(0, line.find('#')));
    std::string word;
    if (!(words >> word)) continue;
    HostSlots host = parse_host(word, slots, where);
    while (words >> word) {
      if (!word.starts_with("slots=")) {
        fail_input(where, "unknown word '", word, "'; allowed: slots=N");
      }
      host.slots = parse_slots(word.substr(6), cat(where, ": ", host.name));
    }
    add(hosts, std::move(host), where);
  }
  if (hosts.empty()) fail_input(file, "names no host");
  return hosts;
}

bool is_this_host(const std::string& name) {
  char own[256] = {};
  gethostname(own, sizeof own - 1);
  return name == own || name == "localhost";
}

// Without what the agent has behind another's colon.
std::vector<std::string> remote_shell(int seconds) {
  const char* set = std::getenv("OMPI_MCA_plm_rsh_agent");
  const std::string agents = set != nullptr ? set : "ssh";
  std::istringstream words(agents.substr(0, agents.find(':')));
  std::vector<std::string> out;
  for (std::string word; words >> word;) out.push_back(word);
  if (out.empty()) fail_input("OMPI_MCA_plm_rsh_agent", "names no program; unset it for ssh");
  if (std::filesystem::path(out[0]).filename() == "ssh") {
    out.insert(out.end(), {"-o", "BatchMode=yes", "-o", cat("ConnectTimeout=", seconds)});
  }
  return out;
}

std::string host_list(const std::vector<HostSlots>& hosts) {
  std::string list;
  for (const HostSlots& host : hosts) {
    list += (list.empty() ? "" : ",") + host.name + ":" + std::to_string(host.slots);
  }
  return list;
}

void check_hosts(const std::vector<HostSlots>& hosts, const std::string& program) {
  std::vector<std::string> remote;
  for (const HostSlots& host : hosts) {
    if (!is_this_host(host.name)) remote.push_back(host.name);
  }
  for (std::size_t begin = 0; begin < remote.size(); begin += kAskedAtOnce) {
    const std::size_t end = std::min(begin + kAskedAtOnce, remote.size());
    std::vector<ChildProgram> asked;
    for (std::size_t i = begin; i < end; ++i) {
      std::vector<std::string> words = remote_shell();
      words.insert(words.end(), {remote[i], "test -x " + shell_quoted(program)});
      asked.emplace_back(words);
    }
    for (std::size_t i = begin; i < end; ++i) judge(remote[i], program, asked[i - begin].wait());
  }
}

}  // namespace peal
