#include "launcher/doctor_probe.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/error.h"
#include "launcher/gather_facts.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr unsigned kLongestSeconds = 600;

std::filesystem::path token_file(const Json& request, int host) {
  return std::filesystem::path(request.at("folder").get<std::string>()) /
         cat(".peal-doctor-", request.at("token").get<std::string>(), "-", host);
}

std::string token_text(const Json& request, int host) {
  return cat(request.at("token").get<std::string>(), " of host ", host, "\n");
}

Json write_token(const Json& request) {
  const int host = request.at("hosts").at(0).get<int>();
  const std::filesystem::path path = token_file(request, host);
  std::FILE* file = std::fopen(path.c_str(), "wx");
  const bool whole = file != nullptr && std::fputs(token_text(request, host).c_str(), file) >= 0 &&
                     std::fflush(file) == 0 && ::fsync(::fileno(file)) == 0;
  const int error = errno;
  if (file != nullptr) std::fclose(file);
  if (file != nullptr && !whole) std::remove(path.c_str());
  return {{"trouble", whole ? "" : std::strerror(error)}};
}

bool has_token(const Json& request, int host) {
  std::ifstream file(token_file(request, host), std::ios::binary);
  std::string line;
  return std::getline(file, line) && line + "\n" == token_text(request, host);
}

// Networked file systems may show a new file some seconds late.
Json read_tokens(const Json& request) {
  const auto end =
      Clock::now() + std::chrono::duration<double>(request.at("seconds").get<double>());
  auto missing = request.at("hosts").get<std::vector<int>>();
  while (true) {
    std::erase_if(missing, [&](int host) { return has_token(request, host); });
    if (missing.empty() || Clock::now() >= end) return {{"missing", missing}};
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
}

Json remove_tokens(const Json& request) {
  std::string trouble;
  for (const int host : request.at("hosts").get<std::vector<int>>()) {
    std::error_code error;
    std::filesystem::remove(token_file(request, host), error);
    if (error) trouble = error.message();
  }
  return {{"trouble", trouble}};
}

std::string answer(const std::string& line) {
  const Json request = Json::parse(line);
  const std::string what = request.at("do").get<std::string>();
  if (what == "clock") {
    const auto now = std::chrono::system_clock::now().time_since_epoch();
    return Json{{"clock", std::chrono::duration_cast<std::chrono::microseconds>(now).count()}}
        .dump();
  }
  if (what == "facts") {
    return print_host_facts(gather_facts(request.at("folders").get<std::vector<std::string>>(),
                                         request.at("names").get<std::vector<std::string>>()));
  }
  if (what == "write") return write_token(request).dump();
  if (what == "read") return read_tokens(request).dump();
  if (what == "remove") return remove_tokens(request).dump();
  fail_input("--probe", "unknown request '", what, "'");
}

}  // namespace

void run_probe() {
  ::alarm(kLongestSeconds);
  for (std::string line; std::getline(std::cin, line);) {
    try {
      std::cout << answer(line) << std::endl;
    } catch (const nlohmann::json::exception&) {
      fail_input("--probe", "'", line, "' is no request; `peal doctor` makes them");
    }
  }
}

}  // namespace peal
