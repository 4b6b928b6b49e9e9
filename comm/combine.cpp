#include "comm/combine.h"

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "core/base/clones.h"
#include "core/base/error.h"
#include "core/base/half_arrays.h"
#include "core/base/half_bits.h"

namespace peal {
namespace {

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
  return widen_bf16_bits(x.bits);
}

template <typename T>
PEAL_INLINE void store(T& to, T value) {
  to = value;
}
PEAL_INLINE void store(Bf16& to, float value) {
  to.bits = narrow_bf16_bits(value);
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
PEAL_COMBINE(combine_bf16_bf16, Bf16, Bf16)
PEAL_COMBINE(combine_bf16_f32, Bf16, float)
PEAL_COMBINE(combine_f32_bf16, float, Bf16)

PEAL_FINISH(finish_f64, double)
PEAL_FINISH(finish_f32, float)
PEAL_FINISH(finish_i64, std::int64_t)
PEAL_FINISH(finish_i32, std::int32_t)
PEAL_FINISH(finish_i8, std::int8_t)
PEAL_FINISH(finish_u8, std::uint8_t)
PEAL_FINISH(finish_bf16, Bf16)

#undef PEAL_COMBINE
#undef PEAL_FINISH

// f16 goes through f32 a few elements at a time, which stay in the nearest cache.
constexpr std::size_t kWide = 256;

template <bool kAPartial, bool kBPartial>
void combine_f16(ReduceOp op, std::byte* out, const std::byte* a, const std::byte* b,
                 std::size_t n) {
  alignas(64) float wide_a[kWide], wide_b[kWide];
  for (std::size_t i = 0; i < n; i += kWide) {
    const std::size_t some = std::min(kWide, n - i);
    const auto operand = [&](const std::byte* x, bool partial, float* wide) {
      if (partial) return x + i * sizeof(float);
      widen_f16(reinterpret_cast<const std::uint16_t*>(x) + i, wide, some);
      return reinterpret_cast<const std::byte*>(wide);
    };
    combine_f32(op, out + i * sizeof(float), operand(a, kAPartial, wide_a),
                operand(b, kBPartial, wide_b), some);
  }
}

void finish_f16(std::byte* out, const std::byte* partial, int divisor, std::size_t n) {
  alignas(64) float divided[kWide];
  for (std::size_t i = 0; i < n; i += kWide) {
    const std::size_t some = std::min(kWide, n - i);
    const float* from = reinterpret_cast<const float*>(partial) + i;
    if (divisor != 1) {
      finish_f32(reinterpret_cast<std::byte*>(divided), reinterpret_cast<const std::byte*>(from),
                 divisor, some);
      from = divided;
    }
    narrow_f16(from, reinterpret_cast<std::uint16_t*>(out) + i, some);
  }
}

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
      return choose(combine_f16<false, false>, combine_f16<true, false>, combine_f16<false, true>);
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
