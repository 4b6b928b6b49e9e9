#include "comm/tuning.h"

#include <sys/utsname.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <span>

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
constexpr std::array<std::string_view, CostModel::kBetween> kBetweenKeys{"step", "message", "sent"};
constexpr Way kInsideWays[] = {Way::mail, Way::slices};
constexpr Way kBetweenWays[] = {Way::small,  Way::doubling,   Way::ring,
                                Way::direct, Way::hosts_ring, Way::hosts_direct};
constexpr double kLeastFactor = 1e-3, kMostFactor = 1e3;

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
    const int value = number<int>(key);
    if (value < least || value > most) refuse(key, cat(value, "; allowed: ", least, " to ", most));
    return value;
  }
  double seconds(const std::string& key) {
    const double value = number<double>(key);
    if (!(value >= 0 && value <= kMostSeconds)) {  // so is NaN
      refuse(key, cat(value, "; allowed: 0 to ", kMostSeconds, " seconds"));
    }
    return value;
  }
  CostModel::Factors factors(const std::string& key) {
    CostModel::Factors factors;
    std::string_view given = text(key);
    for (std::size_t i = 0; i < factors.size(); ++i) {
      const std::size_t end = i + 1 < factors.size() ? given.find(' ') : given.size();
      if (end == std::string_view::npos) refuse(key, cat(i + 1, " numbers; ", factors.size()));
      factors[i] = parse<double>(key, given.substr(0, end));
      if (!(factors[i] >= kLeastFactor && factors[i] <= kMostFactor)) {
        refuse(key, cat(factors[i], "; allowed: ", kLeastFactor, " to ", kMostFactor));
      }
      given.remove_prefix(std::min(end + 1, given.size()));
    }
    return factors;
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
  T number(const std::string& key) {
    return parse<T>(key, text(key));
  }
  template <typename T>
  T parse(const std::string& key, std::string_view given) const {
    T value{};
    const auto [end, error] = std::from_chars(given.data(), given.data() + given.size(), value);
    if (error != std::errc() || end != given.data() + given.size()) {
      refuse(key, cat("\"", given.substr(0, kLongestName), "\" is no number"));
    }
    return value;
  }

  const std::string& where_;
  std::map<std::string, Line> lines_;  // those not yet taken
  int current_ = 0;
};

// One kind of link.
struct Section {
  std::string prefix;
  std::span<const std::string_view> keys;
  std::span<const Way> ways;
  std::size_t first;  // of CostModel::Values
};
const Section kInside{"inside.", kInsideKeys, kInsideWays, 0};
const Section kBetween{"between.", kBetweenKeys, kBetweenWays, CostModel::kInside};

std::optional<FittedOn> read_section(Reader& reader, const Section& section, CostModel& costs) {
  const std::string& prefix = section.prefix;
  if (!reader.has_any(prefix)) return std::nullopt;
  FittedOn on;
  on.hosts = reader.whole(prefix + "hosts", 1, kMostRanks);
  on.ranks_per_host = reader.whole(prefix + "ranks_per_host", 1, kMostRanks);
  on.cpu = reader.name(prefix + "cpu");
  CostModel::Values values = costs.values();
  for (std::size_t i = 0; i < section.keys.size(); ++i) {
    values[section.first + i] = reader.seconds(prefix + std::string(section.keys[i]));
  }
  costs.set(values);
  for (const Way way : section.ways) {
    const std::string key = cat(prefix, "factors.", name_of(way));
    if (reader.has_any(key)) costs.factors[static_cast<std::size_t>(way)] = reader.factors(key);
  }
  return on;
}

std::string print_number(double value) {
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%.6g", value);
  return text.data();
}

std::string print_section(const FittedOn& on, const Section& section, const CostModel& costs) {
  const std::string& prefix = section.prefix;
  std::string text =
      cat(prefix, "hosts: ", on.hosts, "\n", prefix, "ranks_per_host: ", on.ranks_per_host, "\n",
          prefix, "cpu: ", on.cpu, "\n");
  for (std::size_t i = 0; i < section.keys.size(); ++i) {
    text +=
        cat(prefix, section.keys[i], ": ", print_number(costs.values()[section.first + i]), "\n");
  }
  for (const Way way : section.ways) {
    text += cat(prefix, "factors.", name_of(way), ":");
    for (const double factor : costs.factors[static_cast<std::size_t>(way)]) {
      text += cat(" ", print_number(std::clamp(factor, kLeastFactor, kMostFactor)));
    }
    text += "\n";
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
  tuning.inside = read_section(reader, kInside, tuning.costs);
  tuning.between = read_section(reader, kBetween, tuning.costs);
  if (reader.text("end") != kEnd) reader.refuse("end", "is cut short");
  reader.end();
  if (!tuning.inside && !tuning.between) fail_input(where, "nothing was fitted");
  return tuning;
}

std::string print_tuning(const Tuning& tuning) {
  std::string text =
      cat("# What communication takes, in seconds; written by peal bench collectives --tune.\n"
          "version: ",
          Tuning::kVersion, "\n");
  if (tuning.inside) text += print_section(*tuning.inside, kInside, tuning.costs);
  if (tuning.between) text += print_section(*tuning.between, kBetween, tuning.costs);
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
