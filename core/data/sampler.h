// Which record stands at which position of an epoch: a pure function of (seed, epoch, position).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace peal {

// The order of one epoch, in which every record stands exactly once.
//
// F(key, n) is a permutation of [0, n): an eight-round Feistel network over the smallest even
// number of bits that covers n, walked until it lands inside (Black & Rogaway 2002, section 3). For
// seed s and epoch e, k = mix64(mix64(s) ^ e).
//
// Global, N records:   record(p) = F(k, N)(p).
// Windows of K shards, S shards of which shard s begins with record first(s):
//   shard at place i         o(i) = F(mix64(k ^ 1), S)(i)
//   positions before place i b(i) = size(o(0)) + ... + size(o(i - 1))
//   window of p              w with b(wK) <= p < b(min(wK + K, S)) =: b(wK) + n
//   place in the window      q = F(mix64(mix64(k ^ 2) ^ w), n)(p - b(wK)) + b(wK)
//   record(p)                first(o(i)) + q - b(i), where b(i) <= q < b(i + 1)
class EpochOrder {
 public:
  // Safe from many threads, allocates nothing.
  std::int64_t record(std::int64_t position) const;

  // Without windows of shards there is one, of no shards.
  std::int64_t windows() const { return windows_; }
  std::int64_t window(std::int64_t position) const;
  std::span<const std::int64_t> shards(std::int64_t window) const;  // in the order of places

 private:
  friend class Sampler;
  void check(std::int64_t position) const;
  std::int64_t last_place(std::int64_t window) const;  // one past it

  std::int64_t records_ = 0;
  std::uint64_t key_ = 0;
  bool shuffle_ = true;
  std::int64_t windows_ = 1, window_shards_ = 0;
  double windows_per_record_ = 0, shards_per_record_ = 0;
  std::vector<std::int64_t> shards_;  // o: (S)
  std::vector<std::int64_t> begin_;   // b: (S + 1)
  std::uint64_t window_key_ = 0;
  const std::int64_t* first_ = nullptr;  // of the Sampler
};

class Sampler {
 public:
  // O(1) memory.
  Sampler(std::int64_t records, std::uint64_t seed, bool shuffle);
  // Shuffles within windows of `window_shards` shards, the last one maybe of fewer. `shard_starts`:
  // the first record of each shard and, last, the number of records. O(shards) memory here and in
  // every order.
  Sampler(std::span<const std::int64_t> shard_starts, std::int64_t window_shards,
          std::uint64_t seed);

  // Must not outlive the Sampler. With windows O(shards) work, without a few operations.
  EpochOrder order(std::int64_t epoch) const;
  std::int64_t record(std::int64_t epoch, std::int64_t position) const {
    return order(epoch).record(position);
  }
  std::int64_t records() const { return records_; }

 private:
  std::int64_t records_;
  std::uint64_t seed_;
  bool shuffle_;
  std::int64_t window_shards_ = 0;
  std::vector<std::int64_t> starts_;
};

}  // namespace peal
