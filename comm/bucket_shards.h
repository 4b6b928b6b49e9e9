// Which rank owns which slice of each gradient bucket, where every rank has the sum of its own
// slices only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "comm/communicator.h"

namespace peal {

struct ByteRange {
  std::size_t begin = 0, end = 0;
  std::size_t size() const { return end - begin; }
};

// A bucket is cut into one slice a rank, in rank order, so that its reduction and what follows keep
// all ranks busy. Slices are whole units, counted from where the first bucket begins; only the last
// of the arena may be shorter. What does not divide goes to the ranks that have least so far, the
// lower ones first: over all buckets no rank has more than one unit more than another, and rank 0
// has the most.
class BucketShards {
 public:
  // Bucket i is [ends[i - 1], ends[i]) in bytes, the first begins at `begin`.
  BucketShards(std::size_t begin, const std::vector<std::size_t>& ends, std::size_t unit,
               int ranks);

  std::size_t buckets() const { return ends_.size(); }
  int ranks() const { return ranks_; }
  ByteRange bucket(std::size_t index) const;
  std::size_t bucket_at(std::size_t byte) const;  // that has this byte of the arena
  ByteRange slice(std::size_t bucket, int rank) const;
  // Of f32, by rank, as collectives take them.
  Counts counts(std::size_t bucket) const;
  // A rank keeps its slices one behind the other: where that of a bucket begins, and their bytes.
  std::size_t place(std::size_t bucket, int rank) const;
  std::size_t bytes(int rank) const { return place(buckets(), rank); }
  std::size_t largest_bucket() const;  // in bytes

 private:
  std::size_t row(std::size_t bucket) const { return bucket * static_cast<std::size_t>(ranks_); }

  int ranks_;
  std::size_t begin_;
  std::vector<std::size_t> ends_;
  std::vector<std::int64_t> counts_;  // (buckets, ranks)
  std::vector<std::size_t> places_;   // (buckets + 1, ranks)
};

}  // namespace peal
