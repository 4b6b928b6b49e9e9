// What the supervisor of an elastic run decides by: which hosts take part, how often ranks are
// started again, and after what pause. Nothing here looks at a clock; seconds are given.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "launcher/hosts.h"

namespace peal {

// "2:8" -> {2, 8}; throws Error(input).
struct RankRange {
  int least = 1, most = 1;
};
RankRange parse_rank_range(const std::string& text);

// The hosts in their order, each with as many ranks as it has slots, until `most` are placed.
std::vector<HostSlots> place_ranks(const std::vector<HostSlots>& available, int most);
int rank_count(const std::vector<HostSlots>& hosts);

// How the ranks of a host have ended, as far as that is known: codes as RankLines tells them.
struct HostEnds {
  HostSlots host;
  std::vector<int> codes;
};

// Whose fault it is: the host where a rank was killed; or else the one where a rank failed with an
// error of its own; or else, where all that told it missed a peer (exit code 3), the one whose
// ranks are silent. Nothing where that could be several: a host must not pay for another.
std::optional<std::string> host_at_fault(std::span<const HostEnds> hosts);

// Starts after faults. A fault after a step that no start had come to before fills the budget
// again; faults in a row without one wait 0, 1, 2, 4, ... 60 s.
class RestartBudget {
 public:
  explicit RestartBudget(int most) : most_(most), left_(most) {}

  // A fault; `step`: the newest that was finished. False: no start is left.
  bool spend(std::int64_t step);
  double pause() const;
  int used() const { return most_ - left_; }
  int most() const { return most_; }

 private:
  int most_, left_, in_a_row_ = 0;
  std::int64_t furthest_ = 0;
};

// A host that fails twice within `seconds` is left out for good.
class HostFaults {
 public:
  explicit HostFaults(double seconds) : seconds_(seconds) {}

  // True: from now on it is left out.
  bool count(const std::string& host, double now, const std::string& why);
  void leave_out(const std::string& host, const std::string& why) { left_out_[host] = why; }
  void forgive(const std::string& host);
  bool is_left_out(const std::string& host) const { return left_out_.count(host) > 0; }
  // "h3: failed twice, its connection broke", by name
  std::vector<std::string> left_out() const;

 private:
  double seconds_;
  std::map<std::string, double> last_;
  std::map<std::string, std::string> left_out_;
};

}  // namespace peal
