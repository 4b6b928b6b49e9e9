#include "comm/combine.h"

#include <bit>
#include <cstdint>
#include <type_traits>

#include "core/base/error.h"
#include "core/kernels/cpu/clones.h"

namespace peal {
namespace {

struct F16 {
  std::uint16_t bits;
};
struct Bf16 {
  std::uint16_t bits;
};
struct Bool {
  std::uint8_t byte;
};

template <typename T>
PEAL_INLINE T load(T x) {
  return x;
}
PEAL_INLINE float load(Bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
// Branch-free, so that it vectorises; subnormals go by way of an integer, which no CPU traps on.
PEAL_INLINE float load(F16 x) {
  const std::uint32_t size = x.bits & 0x7fffu;
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const auto small = static_cast<float>(static_cast<std::int32_t>(size)) * 0x1p-24f;
  std::uint32_t bits = (size << 13) + (112u << 23);
  bits = size < 0x400u ? std::bit_cast<std::uint32_t>(small) : bits;
  bits = size >= 0x7c00u ? bits | 0x7f800000u : bits;
  return std::bit_cast<float>(bits | sign);
}

template <typename T>
PEAL_INLINE void store(T& to, T value) {
  to = value;
}
// Half of the last bit that stays, less one where that bit is even: what is cut off rounds to
// nearest even. A NaN keeps a bit that the cut cannot lose.
PEAL_INLINE void store(Bf16& to, float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to.bits = static_cast<std::uint16_t>((nan ? bits | 0x400000u : rounded) >> 16);
}
PEAL_INLINE void store(F16& to, float value) {
  constexpr std::uint32_t kOver = 0x47800000u;  // 2^16
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7fffffffu;
  const std::uint32_t held = size < kOver ? size : kOver;
  std::uint32_t half = (held - (112u << 23) + 0xfffu + (held >> 13 & 1u)) >> 13;
  // Below 2^-14 the last bit of an f16 is 2^-24, which is that of 0.5 + x in f32.
  const float shifted = std::bit_cast<float>(held) + 0.5f;
  half = held < (113u << 23) ? std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u : half;
  half = size > 0x7f800000u ? 0x7e00u : half;
  to.bits = static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000u));
}

// Integers wrap around, as unsigned ones do.
template <typename T, typename F>
PEAL_INLINE T wrapped(T a, T b, F f) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::conditional_t<sizeof(T) < 4, std::uint32_t, std::make_unsigned_t<T>>;
    return static_cast<T>(f(static_cast<U>(a), static_cast<U>(b)));
  } else {
    return f(a, b);
  }
}

template <typename T, typename A, typename B, typename F>
PEAL_INLINE void zip(std::byte* out, const std::byte* a, const std::byte* b, std::size_t n, F f) {
  T* o = reinterpret_cast<T*>(out);
  const A* p = reinterpret_cast<const A*>(a);
  const B* q = reinterpret_cast<const B*>(b);
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) o[i] = f(load(p[i]), load(q[i]));
}

// A NaN on either side wins, so that it reaches every rank.
template <typename A, typename B>
PEAL_INLINE void combine(ReduceOp op, std::byte* out, const std::byte* a, const std::byte* b,
                         std::size_t n) {
  using T = decltype(load(A()));
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return zip<T, A, B>(out, a, b, n, [](T x, T y) {
        return wrapped(x, y, [](auto p, auto q) { return p + q; });
      });
    case ReduceOp::product:
      return zip<T, A, B>(out, a, b, n, [](T x, T y) {
        return wrapped(x, y, [](auto p, auto q) { return p * q; });
      });
    case ReduceOp::min:
      return zip<T, A, B>(out, a, b, n, [](T x, T y) { return x < y || x != x ? x : y; });
    case ReduceOp::max:
      return zip<T, A, B>(out, a, b, n, [](T x, T y) { return x > y || x != x ? x : y; });
  }
}

template <>
PEAL_INLINE void combine<Bool, Bool>(ReduceOp op, std::byte* out, const std::byte* a,
                                     const std::byte* b, std::size_t n) {
  const auto truth = [](bool x) { return Bool{static_cast<std::uint8_t>(x ? 1 : 0)}; };
  if (op == ReduceOp::product || op == ReduceOp::min) {
    return zip<Bool, Bool, Bool>(
        out, a, b, n, [&](Bool x, Bool y) { return truth((x.byte != 0) & (y.byte != 0)); });
  }
  zip<Bool, Bool, Bool>(out, a, b, n,
                        [&](Bool x, Bool y) { return truth((x.byte | y.byte) != 0); });
}

template <typename T>
PEAL_INLINE void finish(std::byte* out, const std::byte* partial, int divisor, std::size_t n) {
  using P = decltype(load(T()));
  T* o = reinterpret_cast<T*>(out);
  const P* p = reinterpret_cast<const P*>(partial);
  if (divisor == 1) {
    PEAL_ELEMENTWISE
    for (std::size_t i = 0; i < n; ++i) store(o[i], p[i]);
    return;
  }
  if constexpr (std::is_arithmetic_v<P>) {
    const P by = static_cast<P>(divisor);
    PEAL_ELEMENTWISE
    for (std::size_t i = 0; i < n; ++i) store(o[i], static_cast<P>(p[i] / by));
  }
}

// Clones cannot be templates.
#define PEAL_COMBINE(name, A, B)                                                             \
  PEAL_CLONES void name(ReduceOp op, std::byte* out, const std::byte* a, const std::byte* b, \
                        std::size_t n) {                                                     \
    combine<A, B>(op, out, a, b, n);                                                         \
  }
#define PEAL_FINISH(name, T)                                                                    \
  PEAL_CLONES void name(std::byte* out, const std::byte* partial, int divisor, std::size_t n) { \
    finish<T>(out, partial, divisor, n);                                                        \
  }

PEAL_COMBINE(combine_f64, double, double)
PEAL_COMBINE(combine_f32, float, float)
PEAL_COMBINE(combine_i64, std::int64_t, std::int64_t)
PEAL_COMBINE(combine_i32, std::int32_t, std::int32_t)
PEAL_COMBINE(combine_i8, std::int8_t, std::int8_t)
PEAL_COMBINE(combine_u8, std::uint8_t, std::uint8_t)
PEAL_COMBINE(combine_bool, Bool, Bool)
PEAL_COMBINE(combine_f16_f16, F16, F16)
PEAL_COMBINE(combine_f16_f32, F16, float)
PEAL_COMBINE(combine_f32_f16, float, F16)
PEAL_COMBINE(combine_bf16_bf16, Bf16, Bf16)
PEAL_COMBINE(combine_bf16_f32, Bf16, float)
PEAL_COMBINE(combine_f32_bf16, float, Bf16)

PEAL_FINISH(finish_f64, double)
PEAL_FINISH(finish_f32, float)
PEAL_FINISH(finish_i64, std::int64_t)
PEAL_FINISH(finish_i32, std::int32_t)
PEAL_FINISH(finish_i8, std::int8_t)
PEAL_FINISH(finish_u8, std::uint8_t)
PEAL_FINISH(finish_f16, F16)
PEAL_FINISH(finish_bf16, Bf16)

#undef PEAL_COMBINE
#undef PEAL_FINISH

}  // namespace

std::size_t partial_size(DType dtype) {
  return partial_is_f32(dtype) ? sizeof(float) : size_of(dtype);
}

CombineBlock combine_of(DType dtype, bool a_partial, bool b_partial) {
  const auto choose = [&](CombineBlock neither, CombineBlock a, CombineBlock b) {
    if (a_partial && b_partial) return combine_f32;
    return a_partial ? a : b_partial ? b : neither;
  };
  switch (dtype) {
    case DType::f64:
      return combine_f64;
    case DType::f32:
      return combine_f32;
    case DType::f16:
      return choose(combine_f16_f16, combine_f32_f16, combine_f16_f32);
    case DType::bf16:
      return choose(combine_bf16_bf16, combine_f32_bf16, combine_bf16_f32);
    case DType::i64:
      return combine_i64;
    case DType::i32:
      return combine_i32;
    case DType::i8:
      return combine_i8;
    case DType::u8:
      return combine_u8;
    case DType::boolean:
      return combine_bool;
  }
  fail_internal("reduce", "unknown dtype ", static_cast<int>(dtype));
}

FinishBlock finish_of(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return finish_f64;
    case DType::f32:
      return finish_f32;
    case DType::f16:
      return finish_f16;
    case DType::bf16:
      return finish_bf16;
    case DType::i64:
      return finish_i64;
    case DType::i32:
      return finish_i32;
    case DType::i8:
      return finish_i8;
    case DType::u8:
      return finish_u8;
    case DType::boolean:
      break;
  }
  fail_internal("reduce", "no mean of ", name_of(dtype));
}

}  // namespace peal
