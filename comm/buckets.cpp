#include "comm/buckets.h"

#include <algorithm>
#include <chrono>

#include "core/base/error.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

// The last gradients to become final have nothing left to hide behind: they get a small bucket.
constexpr std::size_t kTailFraction = 8;

// Ends of the buckets in bytes, all but the last a multiple of kAlignment.
std::vector<std::size_t> bucket_ends(std::size_t arena_bytes, std::size_t bucket_bytes) {
  const std::size_t full = std::max(align_up(bucket_bytes), kAlignment);
  const std::size_t tail = align_up(full / kTailFraction);
  std::vector<std::size_t> ends;
  std::size_t at = 0;
  while (arena_bytes - at > full) ends.push_back(at += full);
  if (arena_bytes - at > tail) ends.push_back((arena_bytes - tail) / kAlignment * kAlignment);
  if (ends.empty() || ends.back() < arena_bytes) ends.push_back(arena_bytes);
  return ends;
}

int partials_of(const Communicator& comm, const BucketOptions& options, int rank) {
  if (options.reduction != Reduction::rank_invariant) return 1;
  const TreeNode block = block_of(options.virtual_ranks, comm.world_size(), rank);
  return static_cast<int>(maximal_nodes(options.virtual_ranks, block).size());
}

}  // namespace

struct GradientBuckets::Impl {
  struct Bucket {
    std::string name;
    std::size_t begin = 0, end = 0;
    std::size_t missing = 0;  // bytes that are not final yet
    Request request;
  };

  Communicator& comm;
  BucketOptions options;
  std::size_t arena_bytes;
  int partials = 1;
  std::size_t stride = 0;
  Buffer memory;
  std::vector<Bucket> buckets;
  std::vector<Tensor> views;  // of one bucket in every partial sum
  std::size_t started = 0, bytes_final = 0;
  double seconds_waited = 0;

  std::byte* partial(int index) const {
    return memory.data() + static_cast<std::size_t>(index) * stride;
  }

  Request start(Stream& s, const Bucket& bucket) {
    for (int i = 0; i < partials; ++i) {
      Tensor& view = views[static_cast<std::size_t>(i)];
      view.data = partial(i) + bucket.begin;
      view.shape = {static_cast<std::int64_t>((bucket.end - bucket.begin) / sizeof(float))};
    }
    if (options.reduction == Reduction::rank_invariant) {
      return comm.all_reduce_tree(s, bucket.name, options.virtual_ranks, views, views[0]);
    }
    const bool repeatable = options.reduction == Reduction::repeatable;
    return comm.all_reduce(s, bucket.name, views[0], views[0], ReduceOp::sum,
                           repeatable ? Algorithm::ring : Algorithm::automatic);
  }
};

GradientBuckets::GradientBuckets(Communicator& comm, std::size_t arena_bytes,
                                 const BucketOptions& options)
    : impl_(new Impl{comm, options, arena_bytes, 1, 0, {}, {}, {}, 0, 0, 0}) {
  if (arena_bytes % sizeof(float) != 0) {
    fail_input("gradient arena", arena_bytes, " bytes; a multiple of 4 (f32) is needed");
  }
  impl_->partials = partials_of(comm, options, comm.rank());
  // Every rank allocates as much as the one with the most partial sums.
  int most = 1;
  for (int r = 0; r < comm.world_size(); ++r) {
    most = std::max(most, partials_of(comm, options, r));
  }
  impl_->stride = align_up(arena_bytes);
  impl_->memory =
      comm.allocate(std::max(impl_->stride, kAlignment) * static_cast<std::size_t>(most));
  impl_->views.resize(static_cast<std::size_t>(impl_->partials));
  std::size_t begin = 0;
  for (const std::size_t end : bucket_ends(arena_bytes, options.bucket_bytes)) {
    impl_->buckets.push_back({cat("bucket ", impl_->buckets.size()), begin, end, end - begin, {}});
    begin = end;
  }
}

GradientBuckets::~GradientBuckets() = default;

int GradientBuckets::partials() const {
  return impl_->partials;
}

std::byte* GradientBuckets::partial(int index) {
  if (index < 0 || index >= impl_->partials) {
    fail_internal("gradient buckets", "partial ", index, " of ", impl_->partials);
  }
  return impl_->partial(index);
}

void GradientBuckets::ready(Stream& s, std::size_t bytes_final) {
  if (bytes_final < impl_->bytes_final) return;
  const std::size_t begin = impl_->bytes_final;
  impl_->bytes_final = bytes_final;
  ready(s, begin, bytes_final);
}

void GradientBuckets::ready(Stream& s, std::size_t begin, std::size_t end) {
  if (begin > end || end > impl_->arena_bytes) {
    fail_input("gradient buckets", "bytes [", begin, ", ", end, ") of ", impl_->arena_bytes);
  }
  auto& buckets = impl_->buckets;
  const auto starts_after = [](std::size_t at, const Impl::Bucket& b) { return at < b.begin; };
  auto bucket = std::upper_bound(buckets.begin(), buckets.end(), begin, starts_after) - 1;
  for (; bucket != buckets.end() && bucket->begin < end; ++bucket) {
    const std::size_t bytes = std::min(end, bucket->end) - std::max(begin, bucket->begin);
    if (bytes > bucket->missing) {
      fail_input("gradient buckets", "bytes [", begin, ", ", end, ") were ready before");
    }
    bucket->missing -= bytes;
  }
  for (; impl_->started < buckets.size() && buckets[impl_->started].missing == 0;
       ++impl_->started) {
    buckets[impl_->started].request = impl_->start(s, buckets[impl_->started]);
  }
}

void GradientBuckets::finish(Stream& s,
                             const std::function<void(std::size_t, std::size_t)>& on_bucket) {
  if (impl_->started != impl_->buckets.size()) {
    fail_internal("gradient buckets", "finish after ", impl_->started, " of ",
                  impl_->buckets.size(), " buckets were ready");
  }
  for (Impl::Bucket& bucket : impl_->buckets) {
    const auto before = std::chrono::steady_clock::now();
    impl_->comm.wait(s, bucket.request);
    impl_->seconds_waited +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
    bucket.missing = bucket.end - bucket.begin;
    if (on_bucket) on_bucket(bucket.begin, bucket.end);
  }
  impl_->started = impl_->bytes_final = 0;
}

double GradientBuckets::seconds_waited() const {
  return impl_->seconds_waited;
}

std::size_t GradientBuckets::bucket_count() const {
  return impl_->buckets.size();
}

}  // namespace peal
