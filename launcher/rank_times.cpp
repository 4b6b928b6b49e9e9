#include "launcher/rank_times.h"

#include <algorithm>
#include <utility>

namespace peal {
namespace {

constexpr double kSpan = 0.25;  // seconds
constexpr int kSpans = 3;
constexpr double kSlow = 1.5;

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

std::optional<Straggler> find_straggler(std::span<const double> compute) {
  if (compute.size() < 2) return std::nullopt;
  const auto slowest = std::max_element(compute.begin(), compute.end());
  std::vector<double> others(compute.begin(), slowest);
  others.insert(others.end(), slowest + 1, compute.end());
  const double usual = median_of(others);
  if (!(usual > 0) || *slowest < kSlow * usual) return std::nullopt;
  return Straggler{static_cast<int>(slowest - compute.begin()), *slowest / usual};
}

// Sums, not medians: a host with a share of a core has it in pieces, and stands still in every
// third step or so.
void StragglerRule::add(std::span<const RankTimes> ranks, std::size_t steps) {
  compute_.resize(ranks.size());
  double step = 0;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    compute_[r] += ranks[r].compute;
    step = std::max(step, ranks[r].step);
  }
  seconds_ += static_cast<double>(steps) * step;
  if (seconds_ < kSpan) return;
  judge(find_straggler(compute_));
  std::fill(compute_.begin(), compute_.end(), 0.0);
  seconds_ = 0;
}

void StragglerRule::judge(const std::optional<Straggler>& slow) {
  const int rank = slow ? slow->rank : -1;
  in_a_row_ = rank == suspect_ ? in_a_row_ + 1 : 1;
  suspect_ = rank;
  if (rank >= 0 && in_a_row_ >= kSpans) named_ = slow;
  without_ = named_ && rank != named_->rank ? without_ + 1 : 0;
  if (without_ >= kSpans) named_.reset();
}

TimesExchange::TimesExchange(Communicator& comm)
    : comm_(comm), arriving_(static_cast<std::size_t>(comm.world_size())) {}

bool TimesExchange::add(double compute, double step, double save) {
  bool fresh = false;
  if (under_way_) {
    finish();
    all_ = arriving_;
    rule_.add(all_, kWindow);
    fresh = true;
  }
  compute_ += compute;
  step_[filled_] = step;
  if (++filled_ < kWindow) return fresh;
  filled_ = 0;
  mine_ = {std::exchange(compute_, 0) / kWindow, mean_without_longest(step_), save};
  const auto tensor = [](void* data, std::size_t ranks) {
    return Tensor{.data = data,
                  .shape = {static_cast<std::int64_t>(ranks * sizeof(RankTimes) / sizeof(double))},
                  .dtype = DType::f64};
  };
  under_way_ = comm_.all_gather(stream_, "times", tensor(&mine_, 1),
                                tensor(arriving_.data(), arriving_.size()));
  return fresh;
}

void TimesExchange::finish() {
  if (under_way_) comm_.wait(stream_, *under_way_);
  under_way_.reset();
}

}  // namespace peal
