#include "launcher/rank_processes.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include "core/base/text.h"
#include "launcher/supervised.h"

namespace peal {
namespace {

// What a file of /proc holds, each ended by a zero.
std::vector<std::string> words_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<std::string> words;
  for (std::string word; std::getline(file, word, '\0');) words.push_back(word);
  return words;
}

// Whether it is there and has not ended.
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

// The other processes of this host that `wanted` chooses by their folder in /proc; ascending.
std::vector<int> processes(const std::function<bool(const std::filesystem::path&)>& wanted) {
  std::vector<int> found;
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", none)) {
    const std::string name = entry.path().filename().string();
    int pid = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (error != std::errc() || end != name.data() + name.size() || pid == ::getpid()) continue;
    if (wanted(entry.path()) && is_alive(pid)) found.push_back(pid);
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

std::vector<int> rank_processes(const std::string& prefix) {
  const std::string wanted = cat(kTokenVariable, "=", prefix);
  return processes([&](const std::filesystem::path& process) {
    const std::vector<std::string> variables = words_of(process / "environ");
    return std::any_of(variables.begin(), variables.end(),
                       [&](const std::string& variable) { return variable.starts_with(wanted); });
  });
}

void end_processes(const std::vector<std::string>& arguments) {
  const std::vector<int> found = processes([&](const std::filesystem::path& process) {
    std::vector<std::string> words = words_of(process / "cmdline");
    if (!words.empty()) words.erase(words.begin());
    return words == arguments;
  });
  for (const int pid : found) ::kill(pid, SIGKILL);
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
