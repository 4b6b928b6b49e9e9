#include "comm/buckets.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "comm/bucket_travel.h"
#include "comm/int8_blocks.h"
#include "core/base/error.h"
#include "core/device/buffer.h"

namespace peal {
namespace {

// The last gradients to become final have nothing left to hide behind: they get a small bucket.
constexpr std::size_t kTailFraction = 8;

using Kind = Compression::Kind;

void check(const Compression& c, std::size_t arena_bytes, Reduction reduction) {
  const auto require = [](bool condition, const auto&... parts) {
    if (!condition) fail_input("gradient compression", parts...);
  };
  require(c.exact_bytes % kAlignment == 0 && c.exact_bytes <= arena_bytes, c.exact_bytes,
          " exact bytes; a multiple of ", kAlignment, ", at most ", arena_bytes, ", is needed");
  if (c.kind == Kind::half) {
    const Wire& w = c.wire;
    require(w.dtype == DType::f16 || w.dtype == DType::bf16, name_of(w.dtype),
            "; allowed: f16, bf16");
    int exponent = 0;
    require(w.scale > 0 && std::frexp(w.scale, &exponent) == 0.5f, "scale ", w.scale,
            " is no power of two");
  }
  if (c.kind == Kind::int8) {
    require(c.block >= 4 && c.block % 4 == 0 && c.block <= kInt8MostBlock, "blocks of ", c.block,
            "; allowed: multiples of 4 up to ", kInt8MostBlock);
    require(reduction != Reduction::rank_invariant,
            "int8 depends on the number of ranks; allowed with repeatable and fast");
  }
}

// Ends of the buckets in bytes. What travels exactly, or is not sharded, has the first to itself;
// all but the last are multiples of `unit` behind it.
std::vector<std::size_t> bucket_ends(std::size_t arena_bytes, std::size_t bucket_bytes,
                                     std::size_t first_bytes, std::size_t unit) {
  const auto up = [&](std::size_t bytes) { return (bytes + unit - 1) / unit * unit; };
  const std::size_t full = std::max(up(bucket_bytes), unit), tail = up(full / kTailFraction);
  std::vector<std::size_t> ends;
  std::size_t at = first_bytes;
  if (first_bytes > 0) ends.push_back(first_bytes);
  while (arena_bytes - at > full) ends.push_back(at += full);
  if (arena_bytes - at > tail) {
    const std::size_t end = first_bytes + (arena_bytes - tail - first_bytes) / unit * unit;
    if (end > at) ends.push_back(end);
  }
  if (ends.empty() || ends.back() < arena_bytes) ends.push_back(arena_bytes);
  return ends;
}

void check(const BucketSharding& sharding, const BucketOptions& options, std::size_t arena_bytes) {
  const auto require = [](bool condition, const auto&... parts) {
    if (!condition) fail_input("sharded gradients", parts...);
  };
  require(options.compression.kind == Kind::none, "travel as f32, without compression");
  require(sharding.whole_bytes > 0 && sharding.whole_bytes % kAlignment == 0 &&
              sharding.whole_bytes < arena_bytes,
          sharding.whole_bytes, " bytes for all ranks; a multiple of ", kAlignment,
          " from there to ", arena_bytes, " is needed");
  require(sharding.unit > 0 && sharding.unit % kAlignment == 0, "units of ", sharding.unit,
          " bytes; a multiple of ", kAlignment, " is needed");
}

// What is done here and not in a collective.
void require_host(const Device& device, std::string_view what) {
  if (device.kind == Device::Kind::cpu) return;
  fail_input(std::string(what), "gradients are on ", to_string(device),
             "; this is done in host memory only");
}

int partials_of(const Communicator& comm, const BucketOptions& options, int rank) {
  if (options.reduction != Reduction::rank_invariant) return 1;
  const TreeNode block = block_of(options.virtual_ranks, comm.world_size(), rank);
  return static_cast<int>(maximal_nodes(options.virtual_ranks, block).size());
}

}  // namespace

struct GradientBuckets::Impl {
  Communicator& comm;
  BucketOptions options;
  PartialSums sums;
  std::optional<BucketShards> shards;
  Buffer memory;
  std::vector<Bucket> buckets;
  std::unique_ptr<BucketTravel> plain, compressed;  // compressed may be null
  std::size_t started = 0, bytes_final = 0;
  double seconds_waited = 0;

  std::size_t exact_bytes() const { return compressed ? options.compression.exact_bytes : 0; }
  BucketTravel& travel(const Bucket& bucket) {
    return compressed && bucket.begin >= exact_bytes() ? *compressed : *plain;
  }
  void wait(Stream& s, const Bucket& bucket) {
    const auto before = std::chrono::steady_clock::now();
    comm.wait(s, bucket.request);
    seconds_waited +=
        std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count();
  }
};

GradientBuckets::GradientBuckets(Communicator& comm, std::size_t arena_bytes,
                                 const BucketOptions& options)
    : impl_(new Impl{comm, options, {}, {}, {}, {}, {}, {}, 0, 0, 0}) {
  if (arena_bytes % sizeof(float) != 0) {
    fail_input("gradient arena", arena_bytes, " bytes; a multiple of 4 (f32) is needed");
  }
  const Compression& compression = options.compression;
  const bool compresses = compression.kind != Kind::none;
  if (compresses) check(compression, arena_bytes, options.reduction);
  const std::optional<BucketSharding>& sharding = options.sharding;
  if (sharding) check(*sharding, options, arena_bytes);
  PartialSums& sums = impl_->sums;
  sums.count = partials_of(comm, options, comm.rank());
  // Every rank allocates as much as the one with the most partial sums.
  for (int r = 0; r < comm.world_size(); ++r) {
    sums.most = std::max(sums.most, partials_of(comm, options, r));
  }
  sums.arena_bytes = arena_bytes;
  sums.stride = align_up(arena_bytes);
  impl_->memory =
      comm.allocate(std::max(sums.stride, kAlignment) * static_cast<std::size_t>(sums.most));
  sums.data = impl_->memory.data();
  sums.device = impl_->memory.device();
  if (compresses) require_host(sums.device, "gradient compression");
  const std::size_t exact = compresses ? compression.exact_bytes : 0;
  const std::vector<std::size_t> ends =
      bucket_ends(arena_bytes, options.bucket_bytes, sharding ? sharding->whole_bytes : exact,
                  sharding ? sharding->unit : kAlignment);
  if (sharding) {
    impl_->shards.emplace(sharding->whole_bytes,
                          std::vector<std::size_t>(ends.begin() + 1, ends.end()), sharding->unit,
                          comm.world_size());
  }
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    const std::size_t index = impl_->buckets.size();
    impl_->buckets.push_back({cat("bucket ", index), index, begin, end, end - begin, {}});
    begin = end;
  }
  impl_->plain = make_plain_travel(comm, options, sums, shards());
  if (compression.kind == Kind::half) impl_->compressed = make_half_travel(comm, options, sums);
  if (compression.kind == Kind::int8) {
    impl_->compressed = make_int8_travel(comm, options, sums, impl_->buckets);
  }
}

GradientBuckets::~GradientBuckets() = default;

int GradientBuckets::partials() const {
  return impl_->sums.count;
}

std::byte* GradientBuckets::partial(int index) {
  if (index < 0 || index >= impl_->sums.count) {
    fail_internal("gradient buckets", "partial ", index, " of ", impl_->sums.count);
  }
  return impl_->sums.at(index);
}

const BucketShards* GradientBuckets::shards() const {
  return impl_->shards ? &*impl_->shards : nullptr;
}

std::size_t GradientBuckets::bytes() const {
  return impl_->memory.size() + (impl_->compressed ? impl_->compressed->bytes() : 0);
}

void GradientBuckets::add_nodes(const std::byte* from, std::byte* into, std::size_t begin,
                                std::size_t end) const {
  require_host(impl_->sums.device, "gradient nodes");
  const Compression& c = impl_->options.compression;
  const bool rounds = c.kind == Kind::half && impl_->options.reduction == Reduction::rank_invariant;
  const std::size_t middle = rounds ? std::clamp(c.exact_bytes, begin, end) : end;
  const auto floats = [](const std::byte* arena, std::size_t at) {
    return reinterpret_cast<const float*>(arena + at);
  };
  const auto count = [](std::size_t bytes) { return bytes / sizeof(float); };
  add_f32(floats(from, begin), reinterpret_cast<float*>(into + begin), count(middle - begin));
  add_rounded(c.wire, floats(from, middle), reinterpret_cast<float*>(into + middle),
              count(end - middle));
}

void GradientBuckets::ready(Stream& s, std::size_t bytes_final) {
  if (bytes_final < impl_->bytes_final) return;
  const std::size_t begin = impl_->bytes_final;
  impl_->bytes_final = bytes_final;
  ready(s, begin, bytes_final);
}

void GradientBuckets::ready(Stream& s, std::size_t begin, std::size_t end) {
  if (begin > end || end > impl_->sums.arena_bytes) {
    fail_input("gradient buckets", "bytes [", begin, ", ", end, ") of ", impl_->sums.arena_bytes);
  }
  auto& buckets = impl_->buckets;
  const auto starts_after = [](std::size_t at, const Bucket& b) { return at < b.begin; };
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
    Bucket& next = buckets[impl_->started];
    impl_->travel(next).start(s, next);
  }
}

void GradientBuckets::finish(Stream& s,
                             const std::function<void(std::size_t, std::size_t)>& on_bucket) {
  if (impl_->started != impl_->buckets.size()) {
    fail_internal("gradient buckets", "finish after ", impl_->started, " of ",
                  impl_->buckets.size(), " buckets were ready");
  }
  if (impl_->compressed && impl_->compressed->has_second()) {
    for (Bucket& bucket : impl_->buckets) {
      impl_->wait(s, bucket);
      impl_->travel(bucket).second(s, bucket);
    }
  }
  for (Bucket& bucket : impl_->buckets) {
    impl_->wait(s, bucket);
    impl_->travel(bucket).arrive(bucket);
    bucket.missing = bucket.end - bucket.begin;
    if (on_bucket) on_bucket(bucket.begin, bucket.end);
  }
  impl_->started = impl_->bytes_final = 0;
}

std::byte* GradientBuckets::error() {
  return impl_->compressed ? impl_->compressed->error() : nullptr;
}

double GradientBuckets::seconds_waited() const {
  return impl_->seconds_waited;
}

std::size_t GradientBuckets::bucket_count() const {
  return impl_->buckets.size();
}

std::vector<std::size_t> GradientBuckets::ends() const {
  std::vector<std::size_t> ends;
  for (const Bucket& bucket : impl_->buckets) ends.push_back(bucket.end);
  return ends;
}

}  // namespace peal
