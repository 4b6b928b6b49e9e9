// Compression of gradients: the arithmetic against its definition, and buckets over threads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "comm/int8_blocks.h"
#include "core/base/error.h"
#include "tests/comm/contract_compression.h"

namespace peal {
namespace {

using contract::Bf16;
using contract::F16;
using contract::make;
using contract::number;
using contract::rough;
using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Values over the range of f16 and below it, in lengths that leave every remainder.
std::vector<float> some_values(std::size_t n, int seed) {
  std::vector<float> x(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto at = static_cast<std::int64_t>(i);
    x[i] = std::ldexp(rough(seed, at), static_cast<int>(i % 30) - 28);
  }
  return x;
}

template <typename T>
void rounds_as_defined(float scale) {
  const Wire wire{contract::dtype_of<T>(), scale};
  const auto rounded = [&](double x) { return number(make<T>(x * scale)); };
  for (const std::size_t n : {1u, 15u, 16u, 255u, 256u, 257u, 2000u}) {
    const std::vector<float> x = some_values(n, 1), y = some_values(n, 2);
    std::vector<std::uint16_t> half(n);
    std::vector<float> back(n), sum = x;
    narrow(wire, x.data(), half.data(), n);
    EXPECT_TRUE(widen(wire, half.data(), back.data(), n));
    add_rounded(wire, y.data(), sum.data(), n);
    for (std::size_t i = 0; i < n; ++i) {
      ASSERT_EQ(number(T{half[i]}), rounded(x[i])) << i;
      ASSERT_EQ(back[i], rounded(x[i]) / scale) << i;
      const auto exact = static_cast<float>(rounded(x[i])) + static_cast<float>(rounded(y[i]));
      ASSERT_EQ(sum[i], number(make<T>(static_cast<double>(exact))) / scale) << i;
    }
  }
}

TEST(Wire, RoundsAsDefined) {
  rounds_as_defined<Bf16>(1);
  rounds_as_defined<F16>(1);
  rounds_as_defined<F16>(4);
}

TEST(Wire, AScaleSavesSmallGradients) {
  const float small = 0x1p-30f;
  std::uint16_t half = 0;
  float back = 0;
  narrow({DType::f16, 1}, &small, &half, 1);
  EXPECT_EQ(half, 0);
  narrow({DType::f16, 1024}, &small, &half, 1);
  EXPECT_TRUE(widen({DType::f16, 1024}, &half, &back, 1));
  EXPECT_EQ(back, small);
}

TEST(Wire, SaysWhenF16IsNotFinite) {
  for (const float bad : {kInfinity, -65520.0f, std::nanf("")}) {
    for (const std::size_t at : {0u, 300u, 512u}) {
      std::vector<float> x(513, 65504.0f), back(x.size());
      std::vector<std::uint16_t> half(x.size());
      narrow({DType::f16, 1}, x.data(), half.data(), x.size());
      EXPECT_TRUE(widen({DType::f16, 1}, half.data(), back.data(), x.size()));
      x[at] = bad;
      narrow({DType::f16, 1}, x.data(), half.data(), x.size());
      EXPECT_FALSE(widen({DType::f16, 1}, half.data(), back.data(), x.size())) << at;
    }
  }
}

struct Quantised {
  std::vector<std::byte> bytes;
  std::vector<float> values, left;
};

Quantised quantised(const std::vector<float>& x, std::size_t block) {
  Quantised q;
  q.bytes.resize(int8_blocks(x.size(), block) * int8_block_bytes(block));
  q.left.resize(x.size());
  q.values.resize(x.size());
  quantize_int8(x.data(), q.left.data(), x.size(), block, q.bytes.data());
  EXPECT_TRUE(dequantize_int8(q.bytes.data(), x.size(), block, q.values.data()));
  return q;
}

TEST(Int8, EveryValueIsTheNearestOfItsScale) {
  for (const std::size_t n : {1u, 4u, 255u, 256u, 257u, 2000u}) {
    for (const std::size_t block : {4u, 20u, 256u, 4096u}) {
      std::vector<float> x(n);
      for (std::size_t i = 0; i < n; ++i) x[i] = rough(1, static_cast<std::int64_t>(i));
      const Quantised q = quantised(x, block);
      for (std::size_t i = 0; i < n; ++i) {
        double most = 0;
        const std::size_t first = i / block * block;
        for (std::size_t k = first; k < std::min(n, first + block); ++k) {
          most = std::max(most, std::fabs(static_cast<double>(x[k])));
        }
        const double scale = most / 127;
        ASSERT_LE(std::fabs(q.values[i] - x[i]), scale * 0.5001);
        ASSERT_NEAR(q.values[i] / scale, std::nearbyint(q.values[i] / scale), 1e-4);
        ASSERT_NEAR(q.left[i], x[i] - q.values[i], 1e-7 * most);
      }
    }
  }
}

TEST(Int8, ZerosSmallAndLargeBlocks) {
  EXPECT_THAT(quantised(std::vector<float>(20), 8).values, ::testing::Each(0.0f));
  const Quantised small = quantised(std::vector<float>(8, 1e-38f), 8);
  EXPECT_THAT(small.values, ::testing::Each(0.0f));
  EXPECT_THAT(small.left, ::testing::Each(1e-38f));
  const Quantised large = quantised(std::vector<float>(8, -3e38f), 8);
  for (const float value : large.values) EXPECT_FLOAT_EQ(value, -3e38f);
}

TEST(Int8, SaysWhichBlocksAreNotFinite) {
  for (const float bad : {kInfinity, std::nanf("")}) {
    std::vector<float> x(40, 1), left(40), back(40);
    x[33] = bad;
    std::vector<std::byte> bytes(5 * int8_block_bytes(8));
    quantize_int8(x.data(), left.data(), x.size(), 8, bytes.data());
    EXPECT_TRUE(dequantize_int8(bytes.data(), 32, 8, back.data()));
    EXPECT_FALSE(dequantize_int8(bytes.data(), 40, 8, back.data()));
    const std::byte* in[] = {bytes.data(), bytes.data()};
    std::vector<std::byte> sum(bytes.size());
    reduce_int8(in, left.data(), 40, 8, sum.data());
    EXPECT_FALSE(dequantize_int8(sum.data(), 40, 8, back.data()));
  }
}

TEST(Int8, ASumIsQuantisedAgainAndTheRestIsKept) {
  constexpr std::size_t kCount = 300, kBlock = 32;
  std::vector<float> x(kCount), y(kCount);
  for (std::size_t i = 0; i < kCount; ++i) {
    x[i] = rough(1, static_cast<std::int64_t>(i));
    y[i] = rough(2, static_cast<std::int64_t>(i));
  }
  const Quantised a = quantised(x, kBlock), b = quantised(y, kBlock);
  std::vector<std::byte> bytes(a.bytes.size());
  std::vector<float> left(kCount, 0.5f), sum(kCount);
  const std::byte* in[] = {a.bytes.data(), b.bytes.data()};
  reduce_int8(in, left.data(), kCount, kBlock, bytes.data());
  EXPECT_TRUE(dequantize_int8(bytes.data(), kCount, kBlock, sum.data()));
  for (std::size_t i = 0; i < kCount; ++i) {
    const double exact = static_cast<double>(a.values[i]) + b.values[i];
    ASSERT_NEAR(sum[i] + (left[i] - 0.5), exact, 2e-7 * 1000);
    ASSERT_LE(std::fabs(sum[i] - exact), 2000 / 254.0 * 1.0001);
  }
}

class Compressed : public ::testing::TestWithParam<int> {};

TEST_P(Compressed, Buckets) {
  run_local_ranks(GetParam(), contract::compressed_buckets);
}
INSTANTIATE_TEST_SUITE_P(Ranks, Compressed, ::testing::Range(1, 9));

// Every rank says the same of a gradient that the compression cannot carry.
void expect_numeric(const Compression& compression, float bad, const std::string& text) {
  run_local_ranks(2, [&](Communicator& comm) {
    BucketOptions options{1024, Reduction::fast, 1, compression};
    GradientBuckets buckets(comm, 4000, options);
    if (comm.rank() == 1) contract::values(buckets)[900] = bad;
    try {
      contract::finish_all(buckets, 1000);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::numeric);
      EXPECT_THAT(error.what(), HasSubstr(text));
    }
    Stream s;
    comm.wait(s, comm.barrier(s, "both have said so"));
  });
}

TEST(Compression, WhatCannotTravelIsSaid) {
  expect_numeric({.kind = Compression::Kind::half, .wire = {DType::f16, 1024}}, 64,
                 "bucket 3: a sum of gradients is not finite in f16, whose largest number is "
                 "65504: gradients travel times 1024; a smaller scale or bf16 may help");
  expect_numeric({.kind = Compression::Kind::int8}, kInfinity,
                 "bucket 3: a gradient is not finite");
}

TEST(Compression, RefusesWhatItCannotDo) {
  const auto said = [](const Compression& compression, Reduction reduction) -> std::string {
    const auto comm = make_single_communicator();
    try {
      GradientBuckets(*comm, 4096, {1024, reduction, 1, compression});
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      return error.what();
    }
    return "nothing";
  };
  using Kind = Compression::Kind;
  EXPECT_EQ(said({.kind = Kind::int8}, Reduction::rank_invariant),
            "gradient compression: int8 depends on the number of ranks; allowed with repeatable "
            "and fast");
  EXPECT_EQ(said({.kind = Kind::int8}, Reduction::fast), "nothing");
  EXPECT_EQ(said({.kind = Kind::int8, .block = 6}, Reduction::fast),
            "gradient compression: blocks of 6; allowed: multiples of 4 up to 4096");
  EXPECT_EQ(said({.kind = Kind::half, .wire = {DType::f32, 1}}, Reduction::fast),
            "gradient compression: f32; allowed: f16, bf16");
  EXPECT_EQ(said({.kind = Kind::half, .wire = {DType::f16, 3}}, Reduction::fast),
            "gradient compression: scale 3 is no power of two");
  EXPECT_EQ(said({.kind = Kind::half, .exact_bytes = 100}, Reduction::fast),
            "gradient compression: 100 exact bytes; a multiple of 64, at most 4096, is needed");
}

}  // namespace
}  // namespace peal
