#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

std::vector<float> drop(const RandomKey& key, float p, std::vector<float> x) {
  std::vector<float> y(x.size());
  const Shape shape{static_cast<std::int64_t>(x.size())};
  Stream s;
  kernels_under_test().dropout(s, Draws(key).tensor(), key.site, p, view(x, shape), view(y, shape));
  return y;
}

TEST(DirectDropout, DrawsTheWordsOfTheCommonGenerator) {
  const RandomKey key{.seed = 1, .step = 2, .stream = 3, .site = 4};
  const Random random(key);
  for (const std::size_t n : {1u, 3u, 4u, 63u, 64u, 65u, 1000u, 4097u}) {
    for (const float p : {0.0f, 0.1f, 0.5f, 0.9f}) {
      const std::vector<float> x = normals(n, n);
      const std::vector<float> y = drop(key, p, x);
      for (std::size_t i = 0; i < n; ++i) {
        const float draw = static_cast<float>(random.words(i / 4)[i % 4] >> 8) * 0x1p-24f;
        const float expected = draw >= p ? x[i] * (1.0f / (1.0f - p)) : 0.0f;
        ASSERT_EQ(y[i], expected) << "element " << i << " of " << n << ", p " << p;
      }
    }
  }
}

TEST(DirectDropout, KeepsTheMeanAndDropsTheShareAsked) {
  const std::vector<float> y = drop({.seed = 9}, 0.3f, std::vector<float>(200000, 1.0f));
  const auto dropped = static_cast<double>(std::count(y.begin(), y.end(), 0.0f));
  EXPECT_NEAR(dropped / 200000, 0.3, 0.0041);  // four standard errors
}

TEST(DirectDropout, KeysGiveDifferentMasks) {
  const std::vector<float> ones(256, 1.0f);
  const std::vector<float> mask = drop({.seed = 1}, 0.5f, ones);
  EXPECT_EQ(mask, drop({.seed = 1}, 0.5f, ones));
  EXPECT_NE(mask, drop({.seed = 2}, 0.5f, ones));
  EXPECT_NE(mask, drop({.seed = 1, .step = 1}, 0.5f, ones));
  EXPECT_NE(mask, drop({.seed = 1, .stream = 1}, 0.5f, ones));
  EXPECT_NE(mask, drop({.seed = 1, .site = 1}, 0.5f, ones));
}

TEST(DirectDropout, AllIsDroppedAtOne) {
  for (const float y : drop({.seed = 1}, 1.0f, normals(300, 2))) ASSERT_EQ(y, 0.0f);
}

TEST(DirectDropout, WorksInPlaceAndAtAnyAlignment) {
  Stream s;
  const std::vector<float> x = normals(1000, 3);
  const std::vector<float> expected = drop({.seed = 5}, 0.4f, x);
  for (const std::size_t shift : {0u, 1u, 5u}) {
    std::vector<float> place(1000 + shift);
    std::copy(x.begin(), x.end(), place.begin() + static_cast<std::ptrdiff_t>(shift));
    const Tensor t{.data = place.data() + shift, .shape = {1000}};
    kernels_under_test().dropout(s, Draws({.seed = 5}).tensor(), /*site=*/0, 0.4f, t, t);
    EXPECT_TRUE(std::equal(expected.begin(), expected.end(), place.begin() + shift));
  }
}

TEST(DirectSetValues, WritesThemAndNothingElse) {
  Stream s;
  std::vector<std::int64_t> to(6, -7);
  const std::vector<std::int64_t> values{1, -2, std::int64_t{1} << 40, 4};
  for (std::int64_t count = 1; count <= Kernels::kMostValues; ++count) {
    kernels_under_test().set_values(s, {values.data(), static_cast<std::size_t>(count)},
                                    {.data = to.data() + 1, .shape = {count}, .dtype = DType::i64});
    for (std::int64_t i = 0; i < 6; ++i) {
      const bool written = i >= 1 && i <= count;
      EXPECT_EQ(to[static_cast<std::size_t>(i)],
                written ? values[static_cast<std::size_t>(i - 1)] : -7);
    }
  }
}

}  // namespace
}  // namespace peal::direct
