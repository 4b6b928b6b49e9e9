#include "launcher/exact_values.h"

#include <gtest/gtest.h>

#include <cstring>

#include "comm/combine.h"

namespace peal {
namespace {

constexpr DType kDTypes[] = {DType::f64, DType::f32, DType::f16, DType::bf16,   DType::i64,
                             DType::i32, DType::i8,  DType::u8,  DType::boolean};
constexpr std::int64_t kCount = 5000;  // several periods

std::vector<std::byte> filled(const ExactValues& values, DType dtype, std::int64_t first) {
  std::vector<std::byte> data(static_cast<std::size_t>(kCount) * size_of(dtype));
  values.fill(data.data(), first, kCount);
  return data;
}

TEST(ExactValues, EveryWrongByteIsOneWrongElement) {
  for (const DType dtype : kDTypes) {
    const auto values = ExactValues::of_rank(dtype, 3);
    std::vector<std::byte> data = filled(values, dtype, 77);
    EXPECT_EQ(values.wrong(data.data(), 77, kCount), 0);
    std::int64_t broken = 0;
    for (const std::size_t element : {0, 943, 944, 1021, 4999}) {
      data[element * size_of(dtype) + size_of(dtype) - 1] ^= std::byte{1};
      EXPECT_EQ(values.wrong(data.data(), 77, kCount), ++broken) << name_of(dtype);
    }
  }
}

TEST(ExactValues, ASliceOfAnotherPlaceOrRankIsWrong) {
  for (const DType dtype : kDTypes) {
    const auto values = ExactValues::of_rank(dtype, 0);
    const std::vector<std::byte> data = filled(values, dtype, 0);
    for (const std::int64_t shift : {1, 2, 16, 64, 1024, 4096, 65536}) {
      EXPECT_GT(values.wrong(data.data(), shift, kCount), kCount / 3) << name_of(dtype);
    }
    EXPECT_GT(ExactValues::of_rank(dtype, 1).wrong(data.data(), 0, kCount), kCount / 3);
  }
}

TEST(ExactValues, SumsAreSumsAndWrapAround) {
  constexpr int kRanks = 200;  // more than a byte holds
  std::vector<std::int64_t> sums(static_cast<std::size_t>(kCount));
  std::vector<std::uint8_t> wrapped(sums.size());
  for (int r = 0; r < kRanks; ++r) {
    std::vector<std::int64_t> x(sums.size());
    ExactValues::of_rank(DType::i64, r).fill(reinterpret_cast<std::byte*>(x.data()), 5, kCount);
    for (std::size_t i = 0; i < x.size(); ++i) {
      EXPECT_GE(x[i], 1);
      EXPECT_LE(x[i], 3);
      sums[i] += x[i];
      wrapped[i] = static_cast<std::uint8_t>(wrapped[i] + x[i]);
    }
  }
  const auto wrong = [](DType dtype, const auto& data) {
    return ExactValues::sum_of_ranks(dtype, kRanks)
        .wrong(reinterpret_cast<const std::byte*>(data.data()), 5, kCount);
  };
  EXPECT_EQ(wrong(DType::i64, sums), 0);
  EXPECT_EQ(wrong(DType::u8, wrapped), 0);
}

// What a call must leave behind: summed in f32, rounded once.
TEST(ExactValues, HalfSumsAreRoundedOnceAndBoolIsOr) {
  constexpr int kRanks = 1500;  // sums beyond 2048, up to where f16 is exact
  std::vector<float> sums(static_cast<std::size_t>(kCount));
  std::vector<std::uint8_t> any(sums.size());
  for (int r = 0; r < kRanks; ++r) {
    std::vector<float> x(sums.size());
    ExactValues::of_rank(DType::f32, r).fill(reinterpret_cast<std::byte*>(x.data()), 0, kCount);
    for (std::size_t i = 0; i < x.size(); ++i) {
      sums[i] += x[i];
      any[i] |= static_cast<std::uint8_t>(r < 2 && x[i] != 2);
    }
  }
  for (const DType dtype : {DType::f16, DType::bf16}) {
    std::vector<std::byte> rounded(sums.size() * 2);
    finish_of(dtype)(rounded.data(), reinterpret_cast<const std::byte*>(sums.data()), 1,
                     sums.size());
    EXPECT_EQ(ExactValues::sum_of_ranks(dtype, kRanks).wrong(rounded.data(), 0, kCount), 0);
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(any.data());
  EXPECT_EQ(ExactValues::sum_of_ranks(DType::boolean, 2).wrong(bytes, 0, kCount), 0);
}

}  // namespace
}  // namespace peal
