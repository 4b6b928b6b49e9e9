// Half types against their definition: every f16 and bf16, and roundings at every boundary.
#include "comm/combine.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "core/base/half_arrays.h"
#include "tests/comm/contract_types.h"

namespace peal {
namespace {

using contract::Bf16;
using contract::F16;
using contract::number;

template <typename T>
class Halves : public ::testing::Test {
 protected:
  static constexpr DType kDType = contract::dtype_of<T>();

  static std::vector<T> every() {
    std::vector<T> all(1 << 16);
    for (std::size_t i = 0; i < all.size(); ++i) all[i].bits = static_cast<std::uint16_t>(i);
    return all;
  }
  static std::vector<T> rounded(const std::vector<float>& x, int divisor = 1) {
    std::vector<T> y(x.size());
    finish_of(kDType)(bytes(y), bytes(x), divisor, x.size());
    return y;
  }
  template <typename E>
  static std::byte* bytes(std::vector<E>& v) {
    return reinterpret_cast<std::byte*>(v.data());
  }
  template <typename E>
  static const std::byte* bytes(const std::vector<E>& v) {
    return reinterpret_cast<const std::byte*>(v.data());
  }
  // Bit for bit, but any NaN is as good as another.
  static void expect_same(double got, double want, double of) {
    if (std::isnan(want)) {
      EXPECT_TRUE(std::isnan(got)) << of;
    } else {
      ASSERT_EQ(got, want) << of;
      ASSERT_EQ(std::signbit(got), std::signbit(want)) << of;
    }
  }
};
using HalfTypes = ::testing::Types<F16, Bf16>;
TYPED_TEST_SUITE(Halves, HalfTypes);

TYPED_TEST(Halves, EveryOneIsReadAsItsDefinitionSays) {
  const std::vector<TypeParam> all = this->every(), ones(all.size(), contract::make<TypeParam>(1));
  const std::vector<float> f32_ones(all.size(), 1);
  const auto check = [&](bool a_partial, bool b_partial, const std::byte* a, const std::byte* b) {
    std::vector<float> product(all.size());
    combine_of(this->kDType, a_partial, b_partial)(ReduceOp::product, this->bytes(product), a, b,
                                                   all.size());
    for (std::size_t i = 0; i < all.size(); ++i) {
      this->expect_same(product[i], number(all[i]), static_cast<double>(i));
    }
  };
  check(false, false, this->bytes(all), this->bytes(ones));
  check(true, false, this->bytes(f32_ones), this->bytes(all));
  check(false, true, this->bytes(all), this->bytes(f32_ones));
}

TYPED_TEST(Halves, RoundToNearestEven) {
  std::vector<float> x{0.0f, -0.0f, NAN, INFINITY, -INFINITY, 65519.996f, 65520.0f, 1e-45f};
  x.push_back(std::numeric_limits<float>::max());
  x.push_back(std::numeric_limits<float>::min());
  for (const TypeParam h : this->every()) {
    const auto here = static_cast<float>(number(h));
    if (!std::isfinite(here)) continue;
    const auto next = static_cast<float>(number(TypeParam{static_cast<std::uint16_t>(h.bits + 1)}));
    const float middle = here + (next - here) / 2;
    for (const float v : {here, middle, std::nextafter(middle, here), std::nextafter(middle, next)})
      x.push_back(v);
  }
  const std::vector<TypeParam> got = this->rounded(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    this->expect_same(number(got[i]), number(contract::make<TypeParam>(x[i])), x[i]);
  }
}

TYPED_TEST(Halves, AMeanIsRoundedOnce) {
  std::vector<float> x;
  for (int i = -3000; i < 3000; ++i) x.push_back(static_cast<float>(i) * 1.37f);
  const std::vector<TypeParam> got = this->rounded(x, 3);
  for (std::size_t i = 0; i < x.size(); ++i) {
    this->expect_same(number(got[i]), number(contract::make<TypeParam>(x[i] / 3.0f)), x[i]);
  }
}

TEST(F16, WithAndWithoutItsInstructionsIsTheSame) {
  std::vector<std::uint16_t> all(1 << 16), back(all.size()), portable_back(all.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  std::vector<float> wide(all.size()), portable(all.size());
  widen_f16(all.data(), wide.data(), all.size());
  widen_f16_portable(all.data(), portable.data(), all.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    ASSERT_TRUE(wide[i] == portable[i] || (std::isnan(wide[i]) && std::isnan(portable[i]))) << i;
  }
  // Every f32 by its upper 19 bits, with what is cut off below, at and above the half.
  for (const std::uint32_t low : {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x1fffu}) {
    for (std::uint32_t high = 0; high < 1u << 19; high += 1u << 16) {
      for (std::uint32_t i = 0; i < 1u << 16; ++i) {
        wide[i] = std::bit_cast<float>(((high + i) << 13) | low);
      }
      narrow_f16(wide.data(), back.data(), wide.size());
      narrow_f16_portable(wide.data(), portable_back.data(), wide.size());
      for (std::size_t i = 0; i < wide.size(); ++i) {
        const bool same = back[i] == portable_back[i];
        ASSERT_TRUE(same || std::isnan(wide[i])) << wide[i];
      }
    }
  }
}

TEST(Combine, ANanWinsInEveryFloatingDType) {
  const auto check = [&]<typename T>() {
    for (const ReduceOp op : {ReduceOp::min, ReduceOp::max}) {
      std::vector<T> a(40, contract::make<T>(1)), b(a);
      a[3] = b[38] = contract::make<T>(NAN);
      std::vector<std::byte> sum(40 * partial_size(contract::dtype_of<T>()));
      combine_of(contract::dtype_of<T>(), false, false)(
          op, sum.data(), reinterpret_cast<std::byte*>(a.data()),
          reinterpret_cast<std::byte*>(b.data()), a.size());
      std::vector<T> y(40);
      finish_of(contract::dtype_of<T>())(reinterpret_cast<std::byte*>(y.data()), sum.data(), 1, 40);
      for (std::size_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(std::isnan(number(y[i])), i == 3 || i == 38) << i;
      }
    }
  };
  check.template operator()<double>();
  check.template operator()<float>();
  check.template operator()<F16>();
  check.template operator()<Bf16>();
}

TEST(Combine, BoolIsOrAndAnd) {
  std::vector<std::uint8_t> a{0, 0, 1, 1, 2, 0}, b{0, 1, 0, 1, 4, 8}, y(6);
  const auto run = [&](ReduceOp op) {
    combine_of(DType::boolean, false, false)(op, reinterpret_cast<std::byte*>(y.data()),
                                             reinterpret_cast<std::byte*>(a.data()),
                                             reinterpret_cast<std::byte*>(b.data()), 6);
    return y;
  };
  const std::vector<std::uint8_t> either{0, 1, 1, 1, 1, 1}, both{0, 0, 0, 1, 1, 0};
  EXPECT_EQ(run(ReduceOp::sum), either);
  EXPECT_EQ(run(ReduceOp::max), either);
  EXPECT_EQ(run(ReduceOp::product), both);
  EXPECT_EQ(run(ReduceOp::min), both);
}

}  // namespace
}  // namespace peal
