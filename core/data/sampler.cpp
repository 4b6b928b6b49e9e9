#include "core/data/sampler.h"

#include <algorithm>
#include <bit>

#include "core/base/error.h"
#include "core/base/random.h"

namespace peal {
namespace {

// Four rounds favour some orders of a handful of records: 10 records, 20000 epochs, chi squared
// over freedom 10.1, with eight 1.3.
constexpr std::uint64_t kRounds = 8;

// F(key, n)(x) of sampler.h.
std::int64_t permute(std::uint64_t key, std::int64_t n, std::int64_t x) {
  const int bits = std::bit_width(static_cast<std::uint64_t>(n - 1));
  const int half_bits = std::clamp((bits + 1) / 2, 1, 31);
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  auto value = static_cast<std::uint64_t>(x);
  // A permutation of a larger range, followed until it is back inside, is one of the smaller.
  do {
    std::uint64_t left = value >> half_bits, right = value & mask;
    for (std::uint64_t round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed = left ^ (mix64(mix64(key + round) ^ right) & mask);
      left = right;
      right = mixed;
    }
    value = left << half_bits | right;
  } while (value >= static_cast<std::uint64_t>(n));
  return static_cast<std::int64_t>(value);
}

}  // namespace

Sampler::Sampler(std::int64_t records, std::uint64_t seed, bool shuffle)
    : records_(records), seed_(seed), shuffle_(shuffle) {
  if (records < 1) fail_input("data", "holds ", records, " records; at least 1 is needed");
}

Sampler::Sampler(std::span<const std::int64_t> shard_starts, std::int64_t window_shards,
                 std::uint64_t seed)
    : Sampler(shard_starts.empty() ? 0 : shard_starts.back(), seed, /*shuffle=*/true) {
  const bool rising = std::adjacent_find(shard_starts.begin(), shard_starts.end(),
                                         std::greater_equal<>()) == shard_starts.end();
  if (window_shards < 1 || shard_starts.front() != 0 || !rising) {
    fail_internal("sampler", "windows of ", window_shards, " shards, the first from record ",
                  shard_starts.front());
  }
  window_shards_ = window_shards;
  starts_.assign(shard_starts.begin(), shard_starts.end());
}

EpochOrder Sampler::order(std::int64_t epoch) const {
  EpochOrder order;
  order.records_ = records_;
  order.shuffle_ = shuffle_;
  order.key_ = mix64(mix64(seed_) ^ static_cast<std::uint64_t>(epoch));
  if (window_shards_ == 0) return order;
  const auto shards = static_cast<std::int64_t>(starts_.size()) - 1;
  const std::uint64_t shard_key = mix64(order.key_ ^ 1);
  order.window_key_ = mix64(order.key_ ^ 2);
  order.window_shards_ = std::min(window_shards_, shards);
  order.windows_ = (shards + order.window_shards_ - 1) / order.window_shards_;
  order.windows_per_record_ = static_cast<double>(order.windows_) / static_cast<double>(records_);
  order.shards_per_record_ = static_cast<double>(shards) / static_cast<double>(records_);
  order.first_ = starts_.data();
  order.shards_.resize(static_cast<std::size_t>(shards));
  order.begin_.resize(static_cast<std::size_t>(shards) + 1);
  for (std::int64_t i = 0; i < shards; ++i) {
    const std::int64_t shard = permute(shard_key, shards, i);
    const auto at = static_cast<std::size_t>(i);
    order.shards_[at] = shard;
    order.begin_[at + 1] = order.begin_[at] + starts_[static_cast<std::size_t>(shard) + 1] -
                           starts_[static_cast<std::size_t>(shard)];
  }
  return order;
}

void EpochOrder::check(std::int64_t position) const {
  if (position < 0 || position >= records_) {
    fail_internal("sampler", "position ", position, " of ", records_, " records");
  }
}

std::int64_t EpochOrder::last_place(std::int64_t window) const {
  return std::min((window + 1) * window_shards_, static_cast<std::int64_t>(shards_.size()));
}

// Shards are nearly of one size, so that a division almost finds window and place; where it does
// not, they are searched for.
std::int64_t EpochOrder::window(std::int64_t position) const {
  check(position);
  if (window_shards_ == 0) return 0;
  const auto guess = std::min(
      static_cast<std::int64_t>(static_cast<double>(position) * windows_per_record_), windows_ - 1);
  if (begin_[static_cast<std::size_t>(guess * window_shards_)] <= position &&
      position < begin_[static_cast<std::size_t>(last_place(guess))]) {
    return guess;
  }
  const auto after = std::upper_bound(begin_.begin(), begin_.end(), position);
  return (after - begin_.begin() - 1) / window_shards_;
}

std::span<const std::int64_t> EpochOrder::shards(std::int64_t window) const {
  const std::int64_t first = window * window_shards_;
  return std::span(shards_).subspan(static_cast<std::size_t>(first),
                                    static_cast<std::size_t>(last_place(window) - first));
}

std::int64_t EpochOrder::record(std::int64_t position) const {
  if (window_shards_ == 0) {
    check(position);
    return shuffle_ ? permute(key_, records_, position) : position;
  }
  const std::int64_t w = window(position);
  const std::int64_t first = w * window_shards_, last = last_place(w);
  const std::int64_t begin = begin_[static_cast<std::size_t>(first)];
  const std::int64_t n = begin_[static_cast<std::size_t>(last)] - begin;
  const std::int64_t q =
      permute(mix64(window_key_ ^ static_cast<std::uint64_t>(w)), n, position - begin);
  auto place = std::min(
      first + static_cast<std::int64_t>(static_cast<double>(q) * shards_per_record_), last - 1);
  if (begin_[static_cast<std::size_t>(place)] > begin + q ||
      begin_[static_cast<std::size_t>(place) + 1] <= begin + q) {
    place = std::upper_bound(begin_.begin() + first, begin_.begin() + last, begin + q) -
            begin_.begin() - 1;
  }
  return first_[shards_[static_cast<std::size_t>(place)]] + begin + q -
         begin_[static_cast<std::size_t>(place)];
}

}  // namespace peal
