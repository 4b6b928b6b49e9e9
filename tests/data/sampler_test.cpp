#include "core/data/sampler.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/base/error.h"

namespace peal {
namespace {

std::vector<std::int64_t> order(const Sampler& sampler, std::int64_t epoch) {
  std::vector<std::int64_t> records;
  for (std::int64_t p = 0; p < sampler.records(); ++p) records.push_back(sampler.record(epoch, p));
  return records;
}

void expect_permutation(std::int64_t records, std::uint64_t seed, std::int64_t epoch) {
  const Sampler sampler(records, seed, true);
  std::vector<bool> seen(static_cast<std::size_t>(records));
  for (const std::int64_t r : order(sampler, epoch)) {
    ASSERT_TRUE(r >= 0 && r < records) << records;
    ASSERT_FALSE(seen[static_cast<std::size_t>(r)]) << records << " records, epoch " << epoch;
    seen[static_cast<std::size_t>(r)] = true;
  }
}

TEST(Sampler, IsAPermutationForEverySize) {
  for (std::int64_t records = 1; records <= 300; ++records) {
    for (std::int64_t epoch = 0; epoch < 3; ++epoch) expect_permutation(records, 7, epoch);
  }
  for (const std::int64_t records : {1023, 1024, 1025, 60000, 65536, 65537, 1000003}) {
    expect_permutation(records, 1, 5);
  }
}

TEST(Sampler, DiffersByEpochAndSeed) {
  const Sampler a(1000, 1, true), b(1000, 2, true);
  EXPECT_NE(order(a, 0), order(a, 1));
  EXPECT_NE(order(a, 0), order(b, 0));
  EXPECT_EQ(order(a, 3), order(Sampler(1000, 1, true), 3));
}

TEST(Sampler, WithoutShuffleIsTheIdentity) {
  const Sampler sampler(50, 1, false);
  for (std::int64_t p = 0; p < 50; ++p) EXPECT_EQ(sampler.record(4, p), p);
}

// Over many epochs every record stands at every position equally often.
TEST(Sampler, SpreadsRecordsEvenly) {
  constexpr std::int64_t kRecords = 10, kEpochs = 20000;
  std::vector<int> counts(kRecords * kRecords);
  const Sampler sampler(kRecords, 3, true);
  for (std::int64_t e = 0; e < kEpochs; ++e) {
    for (std::int64_t p = 0; p < kRecords; ++p) {
      ++counts[static_cast<std::size_t>(p * kRecords + sampler.record(e, p))];
    }
  }
  // Expected 2000 each, deviation 42.
  for (const int count : counts) EXPECT_NEAR(count, 2000, 5 * 42);
}

// The order is part of every saved job: it must never change.
TEST(Sampler, OrderIsPinned) {
  const Sampler sampler(10, 1, true);
  EXPECT_EQ(order(sampler, 0), (std::vector<std::int64_t>{9, 0, 3, 7, 4, 1, 6, 2, 8, 5}));
  EXPECT_EQ(order(sampler, 1), (std::vector<std::int64_t>{1, 0, 9, 2, 3, 5, 6, 4, 7, 8}));
}

TEST(Sampler, RefusesWhatIsOutside) {
  EXPECT_THROW(Sampler(0, 1, true), Error);
  EXPECT_THROW(Sampler(5, 1, true).record(0, 5), Error);
  EXPECT_THROW(Sampler(5, 1, false).record(0, -1), Error);
}

}  // namespace
}  // namespace peal
