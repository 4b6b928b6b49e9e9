#include "core/data/reading_order.h"

#include <algorithm>

#include "core/base/error.h"

namespace peal {
namespace {

Sampler sampler_of(const Dataset& dataset, std::int64_t window_shards, std::uint64_t seed,
                   bool shuffle) {
  if (window_shards == 0) return Sampler(dataset.size(), seed, shuffle);
  if (!shuffle) fail_internal("loader", "windows of shards without a shuffle");
  if (dataset.shard_starts().empty()) {
    fail_input("data.shuffle_window_shards", window_shards, ", but ", dataset.name(),
               " is not in shards; `peal shard` makes them");
  }
  return Sampler(dataset.shard_starts(), window_shards, seed);
}

}  // namespace

ReadingOrder::ReadingOrder(std::shared_ptr<const Dataset> dataset, std::int64_t window_shards,
                           std::uint64_t seed, bool shuffle, std::int64_t end)
    : dataset_(std::move(dataset)),
      sampler_(sampler_of(*dataset_, window_shards, seed, shuffle)),
      windows_(window_shards > 0),
      records_(dataset_->size()),
      end_(end) {}

std::shared_ptr<const EpochOrder> ReadingOrder::order(std::int64_t epoch) {
  const std::lock_guard lock(mutex_);
  std::shared_ptr<const EpochOrder>& order = orders_[epoch];
  if (!order) order = std::make_shared<const EpochOrder>(sampler_.order(epoch));
  return order;
}

void ReadingOrder::advance(std::int64_t first, std::int64_t last) {
  furthest_ = std::max(furthest_, std::min(last, end_ - 1));
  if (first >= end_) return;
  if (first / records_ != first_.epoch) {
    const std::lock_guard lock(mutex_);
    orders_.erase(orders_.begin(), orders_.lower_bound(first / records_));
  }
  if (!windows_) {
    first_.epoch = first / records_;
    return;
  }
  const Window from = window_of(first), to = window_of(std::max(furthest_, first));
  if (from == first_ && to == last_) return;
  first_ = from;
  last_ = to;
  tell(from, to);
}

ReadingOrder::Window ReadingOrder::window_of(std::int64_t position) {
  const std::int64_t epoch = position / records_;
  return {epoch, order(epoch)->window(position % records_)};
}

ReadingOrder::Window ReadingOrder::next(const Window& window) {
  if (window.number + 1 < order(window.epoch)->windows()) return {window.epoch, window.number + 1};
  return {window.epoch + 1, 0};
}

// At least two windows, unless the run ends with the first.
void ReadingOrder::tell(const Window& first, const Window& last) {
  const Window end = window_of(end_ - 1);
  list_.clear();
  listed_.assign(dataset_->shard_starts().size(), false);  // windows of two epochs may share shards
  const auto add = [&](const Window& window) {
    for (const std::int64_t shard : order(window.epoch)->shards(window.number)) {
      if (!listed_[static_cast<std::size_t>(shard)]) list_.push_back(shard);
      listed_[static_cast<std::size_t>(shard)] = true;
    }
  };
  for (Window window = first;; window = next(window)) {
    add(window);
    if (window == last) break;
  }
  const std::size_t now = list_.size();
  if (first == last && !(last == end)) add(next(last));
  dataset_->want(list_, now);
}

}  // namespace peal
