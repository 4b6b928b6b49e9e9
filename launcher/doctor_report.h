// What `peal doctor` has found, and how it is shown.
#pragma once

#include <string>
#include <vector>

namespace peal {

enum class Level { fine, unknown, warning, fault };

struct Finding {
  std::string check, host;  // host may be empty: of no one host
  Level level = Level::fine;
  std::string cell;    // in the table, short; empty: a word for the level
  std::string text;    // what is wrong, and
  std::string remedy;  // what to do, in one line; for warnings and faults
};

// Time and speed of the messages between two hosts.
struct PairFinding {
  std::string from, to;
  double microseconds = 0;      // a short message, one way
  double bytes_per_second = 0;  // from -> to
};

class DoctorReport {
 public:
  explicit DoctorReport(std::vector<std::string> hosts) : hosts_(std::move(hosts)) {}

  void fine(const std::string& check, const std::string& host, const std::string& cell = "ok");
  // Not looked at, and why: a fault elsewhere, or nobody asked for it.
  void unknown(const std::string& check, const std::string& host, const std::string& cell = "-");
  void warn(const std::string& check, const std::string& host, const std::string& text,
            const std::string& remedy, const std::string& cell = "warning");
  void fault(const std::string& check, const std::string& host, const std::string& text,
             const std::string& remedy, const std::string& cell = "FAULT");
  void add(PairFinding pair) { pairs_.push_back(std::move(pair)); }

  int count(Level level) const;
  bool at_fault(const std::string& check, const std::string& host) const;
  // Checks by hosts, then each warning and fault with its remedy, then the verdict.
  std::string table() const;
  std::string json() const;

 private:
  std::string verdict() const;
  std::string cell(const std::string& check, const std::string& host) const;

  std::vector<std::string> hosts_;
  std::vector<Finding> findings_;
  std::vector<PairFinding> pairs_;
};

}  // namespace peal
