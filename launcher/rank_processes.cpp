#include "launcher/rank_processes.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "core/base/text.h"
#include "launcher/supervised.h"

namespace peal {
namespace {

bool has_token(const std::filesystem::path& process, const std::string& wanted) {
  std::ifstream file(process / "environ", std::ios::binary);
  for (std::string variable; std::getline(file, variable, '\0');) {
    if (variable.starts_with(wanted)) return true;
  }
  return false;
}

}  // namespace

std::vector<int> rank_processes(const std::string& prefix) {
  const std::string wanted = cat(kTokenVariable, "=", prefix);
  std::vector<int> found;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", none)) {
    const std::string name = entry.path().filename().string();
    int pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size() || pid == ::getpid()) continue;
    if (has_token(entry.path(), wanted) && is_alive(pid)) found.push_back(pid);
  }
  std::sort(found.begin(), found.end());
  return found;
}

bool is_alive(int pid) {
  std::ifstream file(cat("/proc/", pid, "/stat"));
  std::stringstream text;
  text << file.rdbuf();
  // "12 (name) S ...": the name may hold anything.
  const std::string stat = text.str();
  const std::size_t end = stat.rfind(')');
  if (end == std::string::npos || end + 2 >= stat.size()) return false;
  const char state = stat[end + 2];
  return state != 'Z' && state != 'X';
}

int kill_ranks(const std::string& prefix, double seconds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (true) {
    const std::vector<int> left = rank_processes(prefix);
    for (const int pid : left) ::kill(pid, SIGKILL);
    if (left.empty() || std::chrono::steady_clock::now() > deadline) {
      return static_cast<int>(left.size());
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace peal
