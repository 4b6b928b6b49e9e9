#include "comm/tuning.h"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>

#include "core/base/error.h"
#include "core/base/file.h"

namespace peal {
namespace {

constexpr std::size_t kMostBytes = std::size_t{64} << 10, kLongestName = 200;
constexpr double kMostSeconds = 10;
constexpr int kMostRanks = 1 << 24;
constexpr std::string_view kEnd = "tuning";
constexpr std::array<std::string_view, CostModel::kInside> kInsideKeys{"meeting", "copied",
                                                                       "added"};
constexpr std::array<std::string_view, CostModel::kBetween> kBetweenKeys{"step", "message", "sent",
                                                                         "added"};

struct Line {
  std::string_view value;
  int number = 0;
};

class Reader {
 public:
  Reader(std::string_view text, const std::string& where) : where_(where) {
    int number = 0;
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      read_line(text.substr(0, end), ++number);
      text.remove_prefix(std::min(end + 1, text.size()));
    }
  }

  std::string_view text(const std::string& key) {
    const auto found = lines_.find(key);
    if (found == lines_.end()) fail_input(where_, "\"", key, "\" is missing");
    current_ = found->second.number;
    const std::string_view value = found->second.value;
    lines_.erase(found);
    return value;
  }
  int whole(const std::string& key, int least, int most) {
    int value = 0;
    number(key, value);
    if (value < least || value > most) refuse(key, cat(value, "; allowed: ", least, " to ", most));
    return value;
  }
  double seconds(const std::string& key) {
    double value = 0;
    number(key, value);
    if (!(value >= 0 && value <= kMostSeconds)) {  // so is NaN
      refuse(key, cat(value, "; allowed: 0 to ", kMostSeconds, " seconds"));
    }
    return value;
  }
  std::string name(const std::string& key) {
    const std::string_view value = text(key);
    const bool plain =
        std::all_of(value.begin(), value.end(), [](char c) { return c >= ' ' && c <= '~'; });
    if (!plain || value.size() > kLongestName) {
      refuse(key, cat("no plain text of at most ", kLongestName, " characters"));
    }
    return std::string(value);
  }
  bool has_any(const std::string& prefix) const {
    return std::any_of(lines_.begin(), lines_.end(),
                       [&](const auto& line) { return line.first.starts_with(prefix); });
  }
  void end() const {
    if (lines_.empty()) return;
    fail_input(cat(where_, ":", lines_.begin()->second.number), "unknown key \"",
               lines_.begin()->first, "\"");
  }

  [[noreturn]] void refuse(const std::string& key, const std::string& why) const {
    fail_input(cat(where_, ":", current_, " ", key), why);
  }

 private:
  void read_line(std::string_view line, int number) {
    current_ = number;
    if (line.empty() || line[0] == '#') return;
    const std::size_t colon = line.find(": ");
    if (colon == std::string_view::npos || colon > kLongestName) {
      fail_input(cat(where_, ":", number), "not a line `key: value`");
    }
    const std::string key(line.substr(0, colon));
    if (!lines_.emplace(key, Line{line.substr(colon + 2), number}).second) {
      refuse(key, "is there twice");
    }
  }
  template <typename T>
  void number(const std::string& key, T& value) {
    const std::string_view given = text(key);
    const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
    if (error != std::errc() || end != given.data() + given.size()) {
      refuse(key, cat("\"", given.substr(0, kLongestName), "\" is no number"));
    }
  }

  const std::string& where_;
  std::map<std::string, Line> lines_;  // those not yet taken
  int current_ = 0;
};

template <std::size_t N>
std::optional<FittedOn> read_section(Reader& reader, const std::string& prefix,
                                     const std::array<std::string_view, N>& keys, double* values) {
  if (!reader.has_any(prefix)) return std::nullopt;
  FittedOn on;
  on.hosts = reader.whole(prefix + "hosts", 1, kMostRanks);
  on.ranks_per_host = reader.whole(prefix + "ranks_per_host", 1, kMostRanks);
  on.cpu = reader.name(prefix + "cpu");
  for (std::size_t i = 0; i < N; ++i) values[i] = reader.seconds(prefix + std::string(keys[i]));
  return on;
}

template <std::size_t N>
std::string print_section(const FittedOn& on, const std::string& prefix,
                          const std::array<std::string_view, N>& keys, const double* values) {
  std::string text =
      cat(prefix, "hosts: ", on.hosts, "\n", prefix, "ranks_per_host: ", on.ranks_per_host, "\n",
          prefix, "cpu: ", on.cpu, "\n");
  for (std::size_t i = 0; i < N; ++i) {
    std::array<char, 32> number;
    std::snprintf(number.data(), number.size(), "%.6g", values[i]);
    text += cat(prefix, keys[i], ": ", number.data(), "\n");
  }
  return text;
}

}  // namespace

Tuning parse_tuning(std::string_view text, const std::string& where) {
  Reader reader(text, where);
  const int version = reader.whole("version", 0, INT32_MAX);
  if (version != Tuning::kVersion) {
    fail_input(where, "version ", version, "; this Peal reads ", Tuning::kVersion,
               ": run peal bench collectives --tune again");
  }
  Tuning tuning;
  CostModel::Values values = tuning.costs.values();
  tuning.inside = read_section(reader, "inside.", kInsideKeys, values.data());
  tuning.between =
      read_section(reader, "between.", kBetweenKeys, values.data() + CostModel::kInside);
  if (reader.text("end") != kEnd) reader.refuse("end", "is cut short");
  reader.end();
  if (!tuning.inside && !tuning.between) fail_input(where, "nothing was fitted");
  tuning.costs = CostModel::of(values);
  return tuning;
}

std::string print_tuning(const Tuning& tuning) {
  const CostModel::Values values = tuning.costs.values();
  std::string text =
      cat("# What communication takes, in seconds; written by peal bench collectives --tune.\n"
          "version: ",
          Tuning::kVersion, "\n");
  if (tuning.inside) text += print_section(*tuning.inside, "inside.", kInsideKeys, values.data());
  if (tuning.between) {
    text += print_section(*tuning.between, "between.", kBetweenKeys,
                          values.data() + CostModel::kInside);
  }
  return text + cat("end: ", kEnd, "\n");
}

Tuning read_tuning(const std::filesystem::path& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) fail_input(path.string(), "is no file");
  const std::uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error || bytes > kMostBytes) {
    fail_input(path.string(), bytes, " bytes; a tuning file has at most ", kMostBytes);
  }
  return parse_tuning(read_file(path), path.string());
}

std::filesystem::path default_tuning_path() {
  const auto set = [](const char* name) {
    const char* value = std::getenv(name);
    return std::filesystem::path(value != nullptr ? value : "");
  };
  if (const auto cache = set("XDG_CACHE_HOME"); !cache.empty()) return cache / "peal" / "tuning";
  if (const auto home = set("HOME"); !home.empty()) return home / ".cache" / "peal" / "tuning";
  return {};
}

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string name;
  for (std::string line; name.empty() && std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) name = line.substr(colon + 2);
  }
  utsname system{};
  if (name.empty() && ::uname(&system) == 0) name = static_cast<const char*>(system.machine);
  std::erase_if(name, [](char c) { return c < ' ' || c > '~'; });
  return name.substr(0, kLongestName);
}

}  // namespace peal
