#include "comm/bucket_shards.h"

#include <algorithm>
#include <numeric>

#include "comm/index.h"
#include "core/base/error.h"

namespace peal {
namespace {

constexpr std::size_t kElement = sizeof(float);

// Units of a bucket for each rank; `given` counts those of the buckets before.
std::vector<std::size_t> deal(std::size_t units, std::vector<std::size_t>& given) {
  std::vector<std::size_t> shares(given.size(), units / given.size());
  std::vector<std::size_t> order(given.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return given[a] < given[b]; });
  for (std::size_t i = 0; i < units % given.size(); ++i) ++shares[order[i]];
  for (std::size_t r = 0; r < given.size(); ++r) given[r] += shares[r];
  return shares;
}

}  // namespace

BucketShards::BucketShards(std::size_t begin, const std::vector<std::size_t>& ends,
                           std::size_t unit, int ranks)
    : ranks_(ranks), begin_(begin), ends_(ends), places_(at(ranks), 0) {
  std::vector<std::size_t> given(at(ranks), 0);
  for (std::size_t b = 0; b < ends_.size(); ++b) {
    const ByteRange all = bucket(b);
    const bool last = b + 1 == ends_.size();
    if (unit % kElement != 0 || all.size() % kElement != 0 || (!last && all.size() % unit != 0)) {
      fail_internal("bucket shards", "bytes [", all.begin, ", ", all.end, ") in units of ", unit);
    }
    std::size_t left = all.size();
    for (const std::size_t units : deal((all.size() + unit - 1) / unit, given)) {
      const std::size_t bytes = std::min(units * unit, left);
      left -= bytes;
      counts_.push_back(static_cast<std::int64_t>(bytes / kElement));
      places_.push_back(places_[places_.size() - at(ranks)] + bytes);
    }
  }
}

ByteRange BucketShards::bucket(std::size_t index) const {
  return {index == 0 ? begin_ : ends_[index - 1], ends_[index]};
}

std::size_t BucketShards::bucket_at(std::size_t byte) const {
  return static_cast<std::size_t>(std::upper_bound(ends_.begin(), ends_.end(), byte) -
                                  ends_.begin());
}

ByteRange BucketShards::slice(std::size_t bucket, int rank) const {
  const Counts all = counts(bucket);
  std::size_t begin = this->bucket(bucket).begin;
  for (int r = 0; r < rank; ++r) begin += static_cast<std::size_t>(all[at(r)]) * kElement;
  return {begin, begin + static_cast<std::size_t>(all[at(rank)]) * kElement};
}

Counts BucketShards::counts(std::size_t bucket) const {
  return Counts(counts_).subspan(row(bucket), at(ranks_));
}

std::size_t BucketShards::place(std::size_t bucket, int rank) const {
  return places_[row(bucket) + at(rank)];
}

std::size_t BucketShards::largest_bucket() const {
  std::size_t most = 0;
  for (std::size_t b = 0; b < buckets(); ++b) most = std::max(most, bucket(b).size());
  return most;
}

}  // namespace peal
