// What a loader reads when: the orders of the epochs that it is in, and the windows of shards, of
// which it tells the data set.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "core/data/dataset.h"
#include "core/data/sampler.h"

namespace peal {

// Positions are counted over all epochs: epoch * records + position.
class ReadingOrder {
 public:
  // window_shards 0: one shuffle over all records. `end`: no position from there on will be read.
  ReadingOrder(std::shared_ptr<const Dataset> dataset, std::int64_t window_shards,
               std::uint64_t seed, bool shuffle, std::int64_t end);

  // Safe from many threads; takes memory when an epoch is new.
  std::shared_ptr<const EpochOrder> order(std::int64_t epoch);

  // Everything before `first` has been read and will not be again; nothing from `last` + 1 on is
  // being read. The data set is told of a change: the windows in between are wanted at once, the
  // one after the first of them ahead of need. One thread at a time.
  void advance(std::int64_t first, std::int64_t last);

 private:
  struct Window {
    std::int64_t epoch = -1, number = -1;
    friend bool operator==(const Window&, const Window&) = default;
  };
  Window window_of(std::int64_t position);
  Window next(const Window& window);
  void tell(const Window& first, const Window& last);

  const std::shared_ptr<const Dataset> dataset_;
  const Sampler sampler_;
  const bool windows_;
  const std::int64_t records_, end_;
  Window first_, last_;
  std::int64_t furthest_ = -1;
  std::vector<std::int64_t> list_;
  std::vector<bool> listed_;
  std::mutex mutex_;
  std::map<std::int64_t, std::shared_ptr<const EpochOrder>> orders_;
};

}  // namespace peal
