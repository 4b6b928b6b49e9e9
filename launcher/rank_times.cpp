#include "launcher/rank_times.h"

#include <algorithm>

namespace peal {
namespace {

constexpr double kSlow = 1.5;

// Not the median: a host with a share of a core has it in pieces, and stands still in every third
// step or so. One long step alone is nothing.
double mean_without_longest(std::span<const double> values) {
  double sum = 0, longest = 0;
  for (const double value : values) {
    sum += value;
    longest = std::max(longest, value);
  }
  return (sum - longest) / static_cast<double>(values.size() - 1);
}

double median_of(std::span<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::optional<Straggler> find_straggler(std::span<const RankTimes> ranks) {
  if (ranks.size() < 2) return std::nullopt;
  const auto slowest = std::max_element(
      ranks.begin(), ranks.end(),
      [](const RankTimes& a, const RankTimes& b) { return a.compute < b.compute; });
  std::vector<double> others;
  for (auto rank = ranks.begin(); rank != ranks.end(); ++rank) {
    if (rank != slowest) others.push_back(rank->compute);
  }
  const double usual = median_of(others);
  if (!(usual > 0) || slowest->compute < kSlow * usual) return std::nullopt;
  return Straggler{static_cast<int>(slowest - ranks.begin()), slowest->compute / usual};
}

TimesExchange::TimesExchange(Communicator& comm)
    : comm_(comm), arriving_(static_cast<std::size_t>(comm.world_size())) {}

bool TimesExchange::add(double compute, double step, double save) {
  bool fresh = false;
  if (under_way_) {
    finish();
    all_ = arriving_;
    judge();
    fresh = true;
  }
  compute_[filled_] = compute;
  step_[filled_] = step;
  if (++filled_ < kWindow) return fresh;
  filled_ = 0;
  mine_ = {mean_without_longest(compute_), mean_without_longest(step_), save};
  const auto tensor = [](void* data, std::size_t ranks) {
    return Tensor{.data = data,
                  .shape = {static_cast<std::int64_t>(ranks * sizeof(RankTimes) / sizeof(double))},
                  .dtype = DType::f64};
  };
  under_way_ = comm_.all_gather(stream_, "times", tensor(&mine_, 1),
                                tensor(arriving_.data(), arriving_.size()));
  return fresh;
}

void TimesExchange::judge() {
  const std::optional<Straggler> slow = find_straggler(all_);
  const bool again = slow && suspect_ && slow->rank == suspect_->rank;
  straggler_ = again ? slow : std::nullopt;
  suspect_ = slow;
}

void TimesExchange::finish() {
  if (under_way_) comm_.wait(stream_, *under_way_);
  under_way_.reset();
}

}  // namespace peal
