#include <algorithm>

#include "comm/bucket_travel.h"
#include "comm/int8_blocks.h"
#include "core/base/error.h"

namespace peal {
namespace {

// All-to-all of quantised slices, sum and second rounding by the owner of a slice, all-gather:
// 2 steps, 2 (n-1)/n N/4 bytes a rank (and 4 bytes a block). What the owner's rounding leaves goes
// into its own error: it is added to the same sum in the next step, whoever adds it.
class Int8Travel final : public BucketTravel {
 public:
  Int8Travel(Communicator& comm, const BucketOptions& options, const PartialSums& sums,
             const std::vector<Bucket>& buckets)
      : comm_(comm),
        block_(options.compression.block),
        ranks_(static_cast<std::size_t>(comm.world_size())),
        sums_(sums),
        error_(sums.arena_bytes),
        slices_(ranks_) {
    std::size_t bytes = 0;
    for (const Bucket& bucket : buckets) {
      const std::size_t blocks = int8_blocks(bucket.elements(), block_);
      const std::size_t share = (blocks + ranks_ - 1) / ranks_;
      places_.push_back({bytes, share * block_, share * int8_block_bytes(block_)});
      bytes += align_up(ranks_ * places_.back().share_bytes);
    }
    sent_ = comm.allocate(std::max(bytes, kAlignment));
    arrived_ = comm.allocate(std::max(bytes, kAlignment));
  }

  void start(Stream& s, Bucket& bucket) override {
    const Place& place = places_[bucket.index];
    for (std::size_t r = 0; r < ranks_; ++r) {
      const Part part = part_of(bucket, r);
      std::byte* to = block_of_rank(sent_, place, r);
      if (part.count < place.share) std::fill_n(to, place.share_bytes, std::byte{0});
      quantize_int8(part.values, part.error, part.count, block_, to);
    }
    bucket.request = comm_.all_to_all(s, bucket.name, whole(sent_, place), whole(arrived_, place));
  }

  bool has_second() const override { return true; }

  void second(Stream& s, Bucket& bucket) override {
    const Place& place = places_[bucket.index];
    const auto me = static_cast<std::size_t>(comm_.rank());
    for (std::size_t r = 0; r < ranks_; ++r) slices_[r] = block_of_rank(arrived_, place, r);
    const Part part = part_of(bucket, me);
    std::byte* mine = block_of_rank(sent_, place, me);
    reduce_int8(slices_, part.error, part.count, block_, mine);
    const Tensor share{
        .data = mine, .shape = {static_cast<std::int64_t>(place.share_bytes)}, .dtype = DType::u8};
    bucket.request = comm_.all_gather(s, bucket.name, share, whole(sent_, place));
  }

  void arrive(const Bucket& bucket) override {
    bool finite = true;
    for (std::size_t r = 0; r < ranks_; ++r) {
      const Part part = part_of(bucket, r);
      const std::byte* from = block_of_rank(sent_, places_[bucket.index], r);
      finite &= dequantize_int8(from, part.count, block_, part.values);
    }
    if (finite) return;
    throw Error(ErrorKind::numeric, bucket.name, "a gradient is not finite");
  }

  std::size_t bytes() const override { return sent_.size() + arrived_.size() + error_.size(); }
  std::byte* error() override { return error_.data(); }

 private:
  // Where a bucket lies in `sent_` and `arrived_`: one share of blocks for each rank.
  struct Place {
    std::size_t offset, share, share_bytes;  // a share in values and in bytes
  };
  // What a rank owns of a bucket: its share, less at the end.
  struct Part {
    float *values, *error;
    std::size_t count;
  };

  Part part_of(const Bucket& bucket, std::size_t rank) const {
    const std::size_t share = places_[bucket.index].share, n = bucket.elements();
    const std::size_t begin = std::min(n, rank * share), end = std::min(n, begin + share);
    return {reinterpret_cast<float*>(sums_.at(0) + bucket.begin) + begin,
            reinterpret_cast<float*>(error_.data() + bucket.begin) + begin, end - begin};
  }
  static std::byte* block_of_rank(const Buffer& memory, const Place& place, std::size_t rank) {
    return memory.data() + place.offset + rank * place.share_bytes;
  }
  Tensor whole(const Buffer& memory, const Place& place) const {
    return {.data = memory.data() + place.offset,
            .shape = {static_cast<std::int64_t>(ranks_ * place.share_bytes)},
            .dtype = DType::u8};
  }

  Communicator& comm_;
  std::size_t block_, ranks_;
  PartialSums sums_;
  Buffer error_, sent_, arrived_;
  std::vector<Place> places_;  // by bucket
  std::vector<const std::byte*> slices_;
};

}  // namespace

std::unique_ptr<BucketTravel> make_int8_travel(Communicator& comm, const BucketOptions& options,
                                               const PartialSums& sums,
                                               const std::vector<Bucket>& buckets) {
  return std::make_unique<Int8Travel>(comm, options, sums, buckets);
}

}  // namespace peal
