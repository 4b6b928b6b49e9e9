#include "launcher/restart_policy.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/base/error.h"
#include "launcher/rank_line.h"

namespace peal {
namespace {

constexpr int kMostRanks = 1 << 20;
constexpr double kLongestPause = 60;

bool parse_whole(std::string_view text, int& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

RankRange parse_rank_range(const std::string& text) {
  const std::size_t colon = text.find(':');
  RankRange range;
  const std::string_view all = text;
  if (colon == std::string::npos || !parse_whole(all.substr(0, colon), range.least) ||
      !parse_whole(all.substr(colon + 1), range.most) || range.least < 1 ||
      range.most < range.least || range.most > kMostRanks) {
    fail_input("--elastic", "'", text,
               "' is no range of ranks; write it like 2:8, MIN from 1 to MAX");
  }
  return range;
}

std::vector<HostSlots> place_ranks(const std::vector<HostSlots>& available, int most) {
  std::vector<HostSlots> placed;
  for (const HostSlots& host : available) {
    const int here = std::min(host.slots, most);
    if (here > 0) placed.push_back({host.name, here});
    most -= here;
  }
  return placed;
}

int rank_count(const std::vector<HostSlots>& hosts) {
  int sum = 0;
  for (const HostSlots& host : hosts) sum += host.slots;
  return sum;
}

std::optional<std::string> host_at_fault(std::span<const HostEnds> hosts) {
  constexpr int kPeer = 3;
  std::vector<std::string> killed, failed, silent;
  bool told = false;
  for (const HostEnds& ends : hosts) {
    const auto any = [&](auto matches) { return std::ranges::any_of(ends.codes, matches); };
    const bool all_told = static_cast<int>(ends.codes.size()) >= ends.host.slots;
    told = told || any([](int code) { return code == kPeer; });
    if (any([](int code) { return code == RankLines::kNoWord; })) killed.push_back(ends.host.name);
    if (any([](int code) { return code > 0 && code != kPeer; })) failed.push_back(ends.host.name);
    if (!all_told) silent.push_back(ends.host.name);
  }
  const auto only = [](const std::vector<std::string>& names) -> std::optional<std::string> {
    return names.size() == 1 ? std::optional(names[0]) : std::nullopt;
  };
  if (!killed.empty()) return only(killed);
  if (!failed.empty()) return only(failed);
  return told ? only(silent) : std::nullopt;
}

bool RestartBudget::spend(std::int64_t step) {
  if (step > furthest_) {
    furthest_ = step;
    left_ = most_;
    in_a_row_ = 0;
  }
  ++in_a_row_;
  return left_-- > 0;
}

double RestartBudget::pause() const {
  if (in_a_row_ < 2) return 0;
  return std::min(kLongestPause, std::exp2(in_a_row_ - 2));
}

bool HostFaults::count(const std::string& host, double now, const std::string& why) {
  const auto last = last_.find(host);
  const bool twice = last != last_.end() && now - last->second < seconds_;
  last_[host] = now;
  if (twice) leave_out(host, "failed twice, " + why);
  return twice;
}

void HostFaults::forgive(const std::string& host) {
  last_.erase(host);
  left_out_.erase(host);
}

std::vector<std::string> HostFaults::left_out() const {
  std::vector<std::string> list;
  for (const auto& [host, why] : left_out_) list.push_back(cat(host, ": ", why));
  return list;
}

}  // namespace peal
