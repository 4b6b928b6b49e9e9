#include "comm/bucket_shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/buckets.h"

namespace peal {
namespace {

using ::testing::ElementsAre;

// Units of 64 bytes, 16 values.
TEST(BucketShards, CutsEachBucketAndEvensOutWhatIsLeft) {
  const BucketShards shards(128, {128 + 256, 128 + 512, 128 + 512 + 40}, 64, 3);
  ASSERT_EQ(shards.buckets(), 3u);
  EXPECT_THAT(shards.counts(0), ElementsAre(32, 16, 16));  // four units: rank 0 takes two
  EXPECT_THAT(shards.counts(1), ElementsAre(16, 32, 16));  // rank 1 had less
  EXPECT_THAT(shards.counts(2), ElementsAre(0, 0, 10));    // and rank 2
  const auto slice = [&](std::size_t bucket, int rank) {
    const ByteRange s = shards.slice(bucket, rank);
    return std::pair(s.begin, s.end);
  };
  EXPECT_EQ(slice(0, 0), std::pair(std::size_t{128}, std::size_t{256}));
  EXPECT_EQ(slice(0, 2), std::pair(std::size_t{320}, std::size_t{384}));
  EXPECT_EQ(slice(1, 1), std::pair(std::size_t{448}, std::size_t{576}));
  EXPECT_EQ(slice(2, 1), std::pair(std::size_t{640}, std::size_t{640}));
  EXPECT_EQ(slice(2, 2), std::pair(std::size_t{640}, std::size_t{680}));
  EXPECT_EQ(shards.place(1, 0), 128u);
  EXPECT_EQ(shards.place(2, 0), 192u);
  EXPECT_EQ(shards.bytes(0), 192u);
  EXPECT_EQ(shards.bytes(1), 192u);
  EXPECT_EQ(shards.bytes(2), 168u);
  EXPECT_EQ(shards.largest_bucket(), 256u);
}

// Whatever the sizes: slices lie end to end in rank order, and no rank has more than one unit more
// than another.
TEST(BucketShards, CoverTheArenaOnceAndAreEven) {
  constexpr std::size_t kUnit = 256, kBegin = 192;
  for (const int ranks : {1, 2, 3, 4, 7, 16}) {
    for (const std::size_t units : {1u, 2u, 3u, 5u, 8u}) {
      for (const std::size_t rest : {4u, 100u, 256u}) {
        std::vector<std::size_t> ends;
        for (std::size_t b = 1; b <= 5; ++b) ends.push_back(kBegin + b * units * kUnit);
        ends.push_back(ends.back() + rest);
        const BucketShards shards(kBegin, ends, kUnit, ranks);
        std::size_t at = kBegin, all = 0;
        for (std::size_t b = 0; b < shards.buckets(); ++b) {
          for (int r = 0; r < ranks; ++r) {
            const ByteRange slice = shards.slice(b, r);
            ASSERT_EQ(slice.begin, at);
            ASSERT_TRUE((slice.end - kBegin) % kUnit == 0 || slice.end == ends.back());
            ASSERT_EQ(shards.place(b + 1, r) - shards.place(b, r), slice.size());
            at = slice.end;
          }
          ASSERT_EQ(at, ends[b]);
        }
        for (int r = 0; r < ranks; ++r) {
          all += shards.bytes(r);
          EXPECT_LE(shards.bytes(r), shards.bytes(0) + kUnit);
          EXPECT_GE(shards.bytes(r) + kUnit + (kUnit - rest), shards.bytes(0)) << ranks;
        }
        EXPECT_EQ(all, ends.back() - kBegin);
      }
    }
  }
}

TEST(BucketShards, BucketsAreWholeUnitsBehindTheFirst) {
  run_local_ranks(3, [](Communicator& comm) {
    for (const std::size_t bytes : {std::size_t{64 + 4}, std::size_t{64 + 16'384},
                                    std::size_t{64 + 3 * 16'384 + 20}, std::size_t{1'000'000}}) {
      for (const std::size_t bucket : {std::size_t{1}, std::size_t{40'000}, std::size_t{1} << 20}) {
        BucketOptions options{bucket, Reduction::rank_invariant, 3};
        options.sharding = BucketSharding{.whole_bytes = 64, .unit = 16'384};
        const GradientBuckets buckets(comm, bytes, options);
        const BucketShards& shards = *buckets.shards();
        std::size_t at = 64;
        for (std::size_t b = 0; b < shards.buckets(); ++b) {
          const ByteRange range = shards.bucket(b);
          EXPECT_EQ(range.begin, at);
          EXPECT_GT(range.size(), 0u);
          EXPECT_TRUE(range.end == bytes || range.size() % 16'384 == 0);
          at = range.end;
        }
        EXPECT_EQ(at, bytes);
      }
    }
  });
}

TEST(BucketShards, RefusesWhatItCannotDo) {
  const auto make = [](const BucketOptions& options) {
    GradientBuckets(*make_single_communicator(), 4096, options);
  };
  BucketOptions options;
  options.sharding = BucketSharding{.whole_bytes = 64, .unit = 100};
  EXPECT_ANY_THROW(make(options));
  options.sharding = BucketSharding{.whole_bytes = 4096, .unit = 64};
  EXPECT_ANY_THROW(make(options));
  options.sharding = BucketSharding{.whole_bytes = 64, .unit = 64};
  make(options);
  options.compression.kind = Compression::Kind::half;
  options.compression.wire = {DType::bf16, 1};
  EXPECT_ANY_THROW(make(options));
}

}  // namespace
}  // namespace peal
