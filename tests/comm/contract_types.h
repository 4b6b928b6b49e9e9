// Elements of every dtype for the contract, with a conversion of half types that is written after
// their definition and so shares nothing with the one under test.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/text.h"
#include "core/device/buffer.h"
#include "core/device/tensor.h"

namespace peal::contract {

// Thrown with what differed.
template <typename... Parts>
void require(bool condition, const Parts&... parts) {
  if (!condition) throw std::runtime_error(cat(parts...));
}

// A floating-point number of 16 bits: sign, exponent, mantissa.
template <int kMantissa>
struct Small {
  std::uint16_t bits = 0;
};
using F16 = Small<10>;
using Bf16 = Small<7>;
struct Truth {
  std::uint8_t byte = 0;
};

template <typename T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, F16>) return DType::f16;
  if constexpr (std::is_same_v<T, Bf16>) return DType::bf16;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::i64;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::i32;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::i8;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::u8;
  if constexpr (std::is_same_v<T, Truth>) return DType::boolean;
}

// test.template operator()<T>() for the type of every dtype.
template <typename Test>
void for_every_dtype(Test test) {
  test.template operator()<double>();
  test.template operator()<float>();
  test.template operator()<F16>();
  test.template operator()<Bf16>();
  test.template operator()<std::int64_t>();
  test.template operator()<std::int32_t>();
  test.template operator()<std::int8_t>();
  test.template operator()<std::uint8_t>();
  test.template operator()<Truth>();
}

template <int kMantissa>
constexpr int lowest_exponent() {
  return 2 - (1 << (14 - kMantissa));
}

template <typename T>
double number(T x) {
  return static_cast<double>(x);
}
inline double number(Truth x) {
  return x.byte;
}
// NaN and infinities included.
template <int kMantissa>
double number(Small<kMantissa> x) {
  const int exponent = (x.bits & 0x7fff) >> kMantissa, mantissa = x.bits & ((1 << kMantissa) - 1);
  const double sign = (x.bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == (1 << (15 - kMantissa)) - 1) return mantissa != 0 ? NAN : sign * INFINITY;
  const int whole = exponent > 0 ? mantissa + (1 << kMantissa) : mantissa;
  const int scale = lowest_exponent<kMantissa>() + std::max(exponent, 1) - 1 - kMantissa;
  return sign * std::ldexp(whole, scale);
}

template <typename T>
struct Maker {
  static T make(double value) { return static_cast<T>(value); }
};
template <>
struct Maker<Truth> {
  static Truth make(double value) { return {static_cast<std::uint8_t>(value != 0 ? 1 : 0)}; }
};
template <int kMantissa>
struct Maker<Small<kMantissa>> {
  // To nearest, ties to even, which is how nearbyint rounds.
  static Small<kMantissa> make(double value) {
    constexpr int kInfinite = ((1 << (15 - kMantissa)) - 1) << kMantissa;
    const int sign = std::signbit(value) ? 0x8000 : 0, lowest = lowest_exponent<kMantissa>();
    if (std::isnan(value)) return {static_cast<std::uint16_t>(kInfinite + 1)};
    int bits = kInfinite;
    if (!std::isinf(value)) {
      const double size = std::fabs(value);
      const int exponent = size > 0 ? std::max(std::ilogb(size), lowest) : lowest;
      const double whole = std::nearbyint(std::ldexp(size, kMantissa - exponent));
      const double exact = std::ldexp(exponent - lowest, kMantissa) + whole;
      bits = exact < kInfinite ? static_cast<int>(exact) : kInfinite;
    }
    return {static_cast<std::uint16_t>(bits + sign)};
  }
};
// The element nearest to a value.
template <typename T>
T make(double value) {
  return Maker<T>::make(value);
}

template <typename T>
Tensor view(std::vector<T>& data) {
  return {data.data(), {static_cast<std::int64_t>(data.size())}, dtype_of<T>()};
}

template <typename T>
Tensor view(const Buffer& memory, std::int64_t count, std::int64_t first = 0) {
  return {reinterpret_cast<T*>(memory.data()) + first, {count}, dtype_of<T>()};
}

}  // namespace peal::contract
