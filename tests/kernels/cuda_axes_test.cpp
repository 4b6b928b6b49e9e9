// How the CUDA backend finds what it sums, tried on the CPU.
#include <gtest/gtest.h>

#include "core/kernels/cuda/axes.h"
#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

using cuda::Divider;
using cuda::Reduction;
using cuda::Tile;

TEST(CudaAxesOnCpu, DividesAsDivisionDoes) {
  const std::int64_t most = (std::int64_t{1} << 31) - 1;
  std::vector<std::int64_t> divisors = {most, most - 1, most + 1, most * 5};
  for (std::int64_t d = 1; d < 300; ++d) divisors.push_back(d);
  for (int bit = 8; bit < 31; ++bit) {
    for (const std::int64_t by : {-1, 0, 1}) divisors.push_back((std::int64_t{1} << bit) + by);
  }
  const Random random({.seed = 1});
  for (std::uint64_t i = 0; i < 300; ++i) {
    divisors.push_back(1 +
                       static_cast<std::int64_t>(random.u64(i) % static_cast<std::uint64_t>(most)));
  }
  for (const std::int64_t d : divisors) {
    const Divider by(d);
    ASSERT_EQ(by.value(), d);
    std::vector<std::int64_t> numbers = {0, 1, d - 1, d, d + 1, most, most + 1, most / d * d};
    numbers.push_back(most * 1000);
    for (std::uint64_t i = 0; i < 50; ++i) {
      numbers.push_back(static_cast<std::int64_t>(random.words(i)[0] >> 1));
    }
    for (const std::int64_t n : numbers) {
      ASSERT_EQ(by.divide(n), n / d) << n << " / " << d;
    }
  }
}

// Each element of x is read once, for the output that it belongs to.
void expect_partition(const Shape& x, const Shape& y) {
  const Reduction by = Reduction::of(x, y);
  const std::int64_t outer = by.kept.count(), times = by.summed.count();
  ASSERT_EQ(outer * times * by.inner, x.numel()) << x << " to " << y;
  std::vector<int> reads(count(x));
  for (std::int64_t k = 0; k < outer; ++k) {
    for (std::int64_t s = 0; s < times; ++s) {
      for (std::int64_t i = 0; i < by.inner; ++i) {
        const std::int64_t at = by.kept.offset(k) + by.summed.offset(s) + i;
        const std::int64_t output = by.rows ? k : k * by.inner + i;
        ASSERT_LT(static_cast<std::size_t>(at), reads.size());
        ++reads[static_cast<std::size_t>(at)];
        ASSERT_EQ(offset_of(index_of(at, x), y), static_cast<std::size_t>(output))
            << x << " to " << y << " element " << at;
      }
    }
  }
  EXPECT_EQ(std::count(reads.begin(), reads.end(), 1), x.numel()) << x << " to " << y;
}

TEST(CudaAxesOnCpu, EveryElementIsSummedOnceWhereItBelongs) {
  for (const Shape& x : {Shape{}, Shape{1}, Shape{37}, Shape{6, 33}, Shape{1, 9}, Shape{9, 1},
                         Shape{4, 3, 5, 7}, Shape{4, 1, 5, 8}, Shape{2, 3, 2, 3, 2, 17},
                         Shape{2, 3, 1, 3, 1, 4}, Shape{3, 1, 2, 1, 5, 1}}) {
    for (int axes = 0; axes < 1 << x.rank(); ++axes) {
      Shape y = x;
      for (int a = 0; a < x.rank(); ++a) {
        if ((axes >> a & 1) != 0) y[a] = 1;
      }
      expect_partition(x, y);
    }
  }
}

// Rows that are read in packs of four begin at packs.
TEST(CudaAxesOnCpu, RowsOfWholePacksBeginAtPacks) {
  const Shape x{3, 5, 2, 8}, y{3, 1, 2, 1};
  const Reduction by = Reduction::of(x, y);
  ASSERT_TRUE(by.rows);
  ASSERT_EQ(by.inner, 8);
  for (std::int64_t k = 0; k < by.kept.count(); ++k) EXPECT_EQ(by.kept.offset(k) % 4, 0);
  for (std::int64_t s = 0; s < by.summed.count(); ++s) EXPECT_EQ(by.summed.offset(s) % 4, 0);
}

TEST(CudaAxesOnCpu, TilesAreBlocksOfPowersOfTwo) {
  for (const std::int64_t height : {1, 2, 7, 8, 9, 511, 512, 16384, 1 << 30}) {
    for (const std::int64_t width : {1, 3, 8, 31, 32, 33, 768, 50257}) {
      for (const std::int64_t tables : {1, 2, 1000}) {
        const Tile t = Tile::of(height, width, tables);
        for (const std::int64_t n : {t.rows, t.columns}) {
          ASSERT_GE(n, 1);
          ASSERT_EQ(n & (n - 1), 0);
        }
        ASSERT_LE(t.threads(), 1024);
        EXPECT_LT(t.columns, 2 * width);
      }
    }
  }
}

}  // namespace
}  // namespace peal::direct
