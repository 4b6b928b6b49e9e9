#include "comm/bucket_travel.h"

#include "core/base/error.h"

namespace peal {

Request reduce_views(Communicator& comm, Stream& s, const std::string& name,
                     const BucketOptions& options, std::span<const Tensor> views) {
  if (options.reduction == Reduction::rank_invariant) {
    return comm.all_reduce_tree(s, name, options.virtual_ranks, views, views[0]);
  }
  const bool repeatable = options.reduction == Reduction::repeatable;
  return comm.all_reduce(s, name, views[0], views[0], ReduceOp::sum,
                         repeatable ? Algorithm::ring : Algorithm::automatic);
}

namespace {

// As f32, where they are: the bytes of the collective.
class PlainTravel final : public BucketTravel {
 public:
  PlainTravel(Communicator& comm, const BucketOptions& options, const PartialSums& sums,
              const BucketShards* shards)
      : comm_(comm),
        options_(options),
        sums_(sums),
        shards_(shards),
        views_(static_cast<std::size_t>(sums.count)) {}

  void start(Stream& s, Bucket& bucket) override {
    for (int i = 0; i < sums_.count; ++i) {
      views_[static_cast<std::size_t>(i)] = {
          .data = sums_.at(i) + bucket.begin,
          .shape = {static_cast<std::int64_t>(bucket.elements())},
          .device = sums_.device};
    }
    const bool whole = shards_ == nullptr || bucket.index == 0;
    bucket.request =
        whole ? reduce_views(comm_, s, bucket.name, options_, views_) : reduce_slices(s, bucket);
  }

 private:
  // Half the bytes: every rank's slice of the sum becomes that rank's alone, in place.
  Request reduce_slices(Stream& s, const Bucket& bucket) {
    const std::size_t index = bucket.index - 1;
    const ByteRange own = shards_->slice(index, comm_.rank());
    const Tensor y = {.data = sums_.at(0) + own.begin,
                      .shape = {static_cast<std::int64_t>(own.size() / sizeof(float))},
                      .device = sums_.device};
    const Counts counts = shards_->counts(index);
    if (options_.reduction == Reduction::rank_invariant) {
      return comm_.reduce_scatter_tree(s, bucket.name, options_.virtual_ranks, views_, y, counts);
    }
    return comm_.reduce_scatter(s, bucket.name, views_[0], y, ReduceOp::sum, counts);
  }

  Communicator& comm_;
  BucketOptions options_;
  PartialSums sums_;
  const BucketShards* shards_;  // nullptr: every rank gets every sum
  std::vector<Tensor> views_;   // of one bucket in every partial sum
};

// In 16 bits, half the bytes of the collective; each rank reads N and writes N/2 before (p times
// with p partial sums), reads N/2 and writes N after.
class HalfTravel final : public BucketTravel {
 public:
  HalfTravel(Communicator& comm, const BucketOptions& options, const PartialSums& sums)
      : comm_(comm),
        options_(options),
        sums_(sums),
        stride_(align_up(sums.arena_bytes / 2)),
        memory_(comm.allocate(std::max(stride_, kAlignment) * static_cast<std::size_t>(sums.most))),
        views_(static_cast<std::size_t>(sums.count)) {}

  void start(Stream& s, Bucket& bucket) override {
    const Wire& wire = options_.compression.wire;
    for (int i = 0; i < sums_.count; ++i) {
      narrow(wire, floats(i, bucket), halves(i, bucket), bucket.elements());
      views_[static_cast<std::size_t>(i)] = {
          .data = halves(i, bucket),
          .shape = {static_cast<std::int64_t>(bucket.elements())},
          .dtype = wire.dtype};
    }
    bucket.request = reduce_views(comm_, s, bucket.name, options_, views_);
  }

  void arrive(const Bucket& bucket) override {
    const Wire& wire = options_.compression.wire;
    if (widen(wire, halves(0, bucket), floats(0, bucket), bucket.elements())) return;
    throw Error(ErrorKind::numeric, bucket.name,
                cat("a sum of gradients is not finite in f16, whose largest number is 65504: "
                    "gradients travel times ",
                    wire.scale, "; a smaller scale or bf16 may help"));
  }

  std::size_t bytes() const override { return memory_.size(); }

 private:
  float* floats(int i, const Bucket& bucket) const {
    return reinterpret_cast<float*>(sums_.at(i) + bucket.begin);
  }
  std::uint16_t* halves(int i, const Bucket& bucket) const {
    return reinterpret_cast<std::uint16_t*>(memory_.data() + static_cast<std::size_t>(i) * stride_ +
                                            bucket.begin / 2);
  }

  Communicator& comm_;
  BucketOptions options_;
  PartialSums sums_;
  std::size_t stride_;
  Buffer memory_;
  std::vector<Tensor> views_;
};

}  // namespace

std::unique_ptr<BucketTravel> make_plain_travel(Communicator& comm, const BucketOptions& options,
                                                const PartialSums& sums,
                                                const BucketShards* shards) {
  return std::make_unique<PlainTravel>(comm, options, sums, shards);
}

std::unique_ptr<BucketTravel> make_half_travel(Communicator& comm, const BucketOptions& options,
                                               const PartialSums& sums) {
  return std::make_unique<HalfTravel>(comm, options, sums);
}

}  // namespace peal
