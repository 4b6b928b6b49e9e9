#include "launcher/doctor_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/base/text.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::size_t kWidestTable = 8;  // hosts; with more, equal columns become one

const char* name(Level level) {
  switch (level) {
    case Level::fine:
      return "fine";
    case Level::unknown:
      return "unknown";
    case Level::warning:
      return "warning";
    case Level::fault:
      return "fault";
  }
  return "";
}

struct Column {
  std::string title;
  int hosts = 0;
  std::vector<std::string> cells;
};

std::string padded(std::string text, std::size_t width) {
  text.resize(std::max(text.size(), width), ' ');
  return text + "  ";
}

std::string print_columns(const std::vector<std::string>& checks,
                          const std::vector<Column>& columns) {
  std::vector<std::string> lines(checks.size() + 1);
  const auto put = [&](const std::string& title, const std::vector<std::string>& cells) {
    std::size_t width = title.size();
    for (const std::string& cell : cells) width = std::max(width, cell.size());
    lines[0] += padded(title, width);
    for (std::size_t i = 0; i < cells.size(); ++i) lines[i + 1] += padded(cells[i], width);
  };
  put("check", checks);
  for (const Column& column : columns) put(column.title, column.cells);
  std::string out;
  for (std::string& line : lines) {
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  }
  return out;
}

std::string plural(int count, const std::string& what) {
  return cat(count, " ", what, count == 1 ? "" : "s");
}

}  // namespace

void DoctorReport::fine(const std::string& check, const std::string& host,
                        const std::string& cell) {
  findings_.push_back({check, host, Level::fine, cell, "", ""});
}

void DoctorReport::unknown(const std::string& check, const std::string& host,
                           const std::string& cell) {
  findings_.push_back({check, host, Level::unknown, cell, "", ""});
}

void DoctorReport::warn(const std::string& check, const std::string& host, const std::string& text,
                        const std::string& remedy, const std::string& cell) {
  findings_.push_back({check, host, Level::warning, cell, text, remedy});
}

void DoctorReport::fault(const std::string& check, const std::string& host, const std::string& text,
                         const std::string& remedy, const std::string& cell) {
  findings_.push_back({check, host, Level::fault, cell, text, remedy});
}

int DoctorReport::count(Level level) const {
  return static_cast<int>(std::count_if(findings_.begin(), findings_.end(),
                                        [&](const auto& found) { return found.level == level; }));
}

bool DoctorReport::at_fault(const std::string& check, const std::string& host) const {
  return std::any_of(findings_.begin(), findings_.end(), [&](const Finding& found) {
    return found.level == Level::fault && found.check == check && found.host == host;
  });
}

// The worst that was found; of equally bad ones the first.
std::string DoctorReport::cell(const std::string& check, const std::string& host) const {
  const Finding* worst = nullptr;
  for (const Finding& finding : findings_) {
    if (finding.check != check || finding.host != host) continue;
    if (worst == nullptr || finding.level > worst->level) worst = &finding;
  }
  return worst == nullptr ? "-" : worst->cell;
}

std::string DoctorReport::verdict() const {
  const int faults = count(Level::fault), warnings = count(Level::warning);
  if (faults == 0 && warnings == 0) return "verdict: all right";
  if (faults == 0) return "verdict: all right, with " + plural(warnings, "warning");
  return "verdict: " + plural(faults, "fault") +
         (warnings > 0 ? " and " + plural(warnings, "warning") : "");
}

std::string DoctorReport::table() const {
  std::vector<std::string> checks;
  for (const Finding& finding : findings_) {
    if (finding.host.empty()) continue;
    if (std::find(checks.begin(), checks.end(), finding.check) == checks.end()) {
      checks.push_back(finding.check);
    }
  }
  std::vector<Column> columns;
  for (const std::string& host : hosts_) {
    Column column{.title = host, .hosts = 1, .cells = {}};
    for (const std::string& check : checks) column.cells.push_back(cell(check, host));
    const auto same = std::find_if(columns.begin(), columns.end(), [&](const Column& other) {
      return other.cells == column.cells;
    });
    if (hosts_.size() > kWidestTable && same != columns.end()) {
      ++same->hosts;
    } else {
      columns.push_back(std::move(column));
    }
  }
  for (Column& column : columns) {
    if (column.hosts > 1) column.title += cat(" and ", column.hosts - 1, " alike");
  }
  std::string out = print_columns(checks, columns);
  for (const Level level : {Level::warning, Level::fault}) {
    for (const Finding& finding : findings_) {
      if (finding.level != level) continue;
      out += cat("\n", name(level), ": ", finding.host, finding.host.empty() ? "" : ": ",
                 finding.check, ": ", finding.text, "\n  remedy: ", finding.remedy, "\n");
    }
  }
  return out + "\n" + verdict() + "\n";
}

std::string DoctorReport::json() const {
  Json findings = Json::array(), pairs = Json::array();
  for (const Finding& finding : findings_) {
    Json entry = {{"check", finding.check},
                  {"host", finding.host},
                  {"level", name(finding.level)},
                  {"cell", finding.cell}};
    if (!finding.text.empty()) entry["text"] = finding.text;
    if (!finding.remedy.empty()) entry["remedy"] = finding.remedy;
    findings.push_back(std::move(entry));
  }
  for (const PairFinding& pair : pairs_) {
    pairs.push_back({{"from", pair.from},
                     {"to", pair.to},
                     {"microseconds", pair.microseconds},
                     {"bytes_per_second", pair.bytes_per_second}});
  }
  const Json out = {
      {"hosts", hosts_},      {"faults", count(Level::fault)}, {"warnings", count(Level::warning)},
      {"verdict", verdict()}, {"findings", findings},          {"pairs", pairs}};
  return out.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace peal
