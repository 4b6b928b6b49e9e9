// The arithmetic of a reduction for one element, or for a few side by side, in the order of a
// ReducePlan: what the CUDA kernels run for each element, and what reduce.cpp does on the CPU, to
// the bit.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "comm/call.h"
#include "comm/reduce.h"
#include "core/base/half_bits.h"

namespace peal {

// Where the sources of a plan are: those of this rank in its own memory, all others one behind the
// other as they arrived. Copied into a kernel's arguments.
struct SumSources {
  const std::byte* arrived = nullptr;
  std::size_t stride = 0;  // bytes from one arrived source to the next
  int first_own = 0, own_count = 0;
  const std::byte* own[kMaxInputs] = {};

  PEAL_ANYWHERE const std::byte* at(int k) const {
    if (k >= first_own && k < first_own + own_count) return own[k - first_own];
    return arrived + static_cast<std::size_t>(k < first_own ? k : k - own_count) * stride;
  }
};

// The steps of a ReducePlan, wherever they lie, and what follows them.
struct SumSteps {
  const ReducePlan::Step* steps = nullptr;
  int count = 0;
  ReduceOp op = ReduceOp::sum;
  int divisor = 1;
  bool round_each = false;  // ReducePlan::rounds_each_step
};

// Scratch slots that a plan may have: a chain needs 1, a tree one for each of its levels.
inline constexpr int kMostSlots = 32;

struct F16Element {
  std::uint16_t bits;
};
struct Bf16Element {
  std::uint16_t bits;
};
struct BoolElement {
  std::uint8_t byte;
};

template <typename T>
PEAL_ANYWHERE T partial_of(T x) {
  return x;
}
PEAL_ANYWHERE float partial_of(F16Element x) {
  return widen_f16_bits(x.bits);
}
PEAL_ANYWHERE float partial_of(Bf16Element x) {
  return widen_bf16_bits(x.bits);
}
template <typename T>
using PartialOf = decltype(partial_of(T()));

template <typename T>
PEAL_ANYWHERE void round_to(T& to, T value) {
  to = value;
}
PEAL_ANYWHERE void round_to(F16Element& to, float value) {
  to.bits = narrow_f16_bits(value);
}
PEAL_ANYWHERE void round_to(Bf16Element& to, float value) {
  to.bits = narrow_bf16_bits(value);
}

// Integers wrap around, as unsigned ones do; a NaN on either side wins min and max.
template <typename P>
PEAL_ANYWHERE P combined(ReduceOp op, P a, P b) {
  using U =
      std::conditional_t<sizeof(P) < 4, std::uint32_t,
                         typename std::conditional_t<std::is_integral_v<P>, std::make_unsigned<P>,
                                                     std::type_identity<P>>::type>;
  switch (op) {
    case ReduceOp::sum:
    case ReduceOp::mean:
      return static_cast<P>(static_cast<U>(a) + static_cast<U>(b));
    case ReduceOp::product:
      return static_cast<P>(static_cast<U>(a) * static_cast<U>(b));
    case ReduceOp::min:
      return a < b || a != a ? a : b;
    case ReduceOp::max:
      return a > b || a != a ? a : b;
  }
  return a;
}
PEAL_ANYWHERE BoolElement combined(ReduceOp op, BoolElement a, BoolElement b) {
  const bool both = op == ReduceOp::product || op == ReduceOp::min;
  const bool truth = both ? (a.byte != 0) & (b.byte != 0) : (a.byte | b.byte) != 0;
  return {static_cast<std::uint8_t>(truth ? 1 : 0)};
}

// Sums, means and products as the end of a reduction has them.
template <typename P>
PEAL_ANYWHERE P divided(P x, int divisor) {
  if constexpr (std::is_arithmetic_v<P>) {
    return divisor > 1 ? static_cast<P>(x / static_cast<P>(divisor)) : x;
  } else {
    return x;  // bool has no mean
  }
}

// kLanes elements, which are read and written at once: 16 bytes where they are aligned to that.
template <typename T, int kLanes>
struct alignas(sizeof(T) * kLanes) Lanes {
  T of[kLanes];
};

template <typename P, int kLanes>
struct Partials {
  P of[kLanes];
};

// Operand k of a step: a scratch slot, or elements of a source.
template <typename T, int kLanes>
PEAL_ANYWHERE Partials<PartialOf<T>, kLanes> operand(int k,
                                                     const Partials<PartialOf<T>, kLanes>* slots,
                                                     const SumSources& sources, std::size_t first) {
  if (k < 0) return slots[~k];
  const T* source = reinterpret_cast<const T*>(sources.at(k)) + first;
  const Lanes<T, kLanes> packed = *reinterpret_cast<const Lanes<T, kLanes>*>(source);
  Partials<PartialOf<T>, kLanes> wide;
  for (int i = 0; i < kLanes; ++i) wide.of[i] = partial_of(packed.of[i]);
  return wide;
}

// To what T holds, where that is less than the partial sum does.
template <typename T, int kLanes>
PEAL_ANYWHERE void round_lanes(Partials<PartialOf<T>, kLanes>& sum) {
  if constexpr (!std::is_same_v<T, PartialOf<T>>) {
    for (int i = 0; i < kLanes; ++i) {
      T rounded;
      round_to(rounded, sum.of[i]);
      sum.of[i] = partial_of(rounded);
    }
  }
}

// Elements [first, first + kLanes) of the result into y, which may be a source. A single source is
// copied as it is.
template <typename T, int kLanes>
PEAL_ANYWHERE void sum_lanes(const SumSteps& plan, const SumSources& sources, T* y,
                             std::size_t first) {
  auto* result = reinterpret_cast<Lanes<T, kLanes>*>(y + first);
  if (plan.count == 0) {
    const T* source = reinterpret_cast<const T*>(sources.at(0)) + first;
    *result = *reinterpret_cast<const Lanes<T, kLanes>*>(source);
    return;
  }
  Partials<PartialOf<T>, kLanes> slots[kMostSlots];
  Partials<PartialOf<T>, kLanes> sum{};
  for (int s = 0; s < plan.count; ++s) {
    const ReducePlan::Step step = plan.steps[s];
    const auto a = operand<T, kLanes>(step.left, slots, sources, first);
    const auto b = operand<T, kLanes>(step.right, slots, sources, first);
    for (int i = 0; i < kLanes; ++i) sum.of[i] = combined(plan.op, a.of[i], b.of[i]);
    if (plan.round_each) round_lanes<T, kLanes>(sum);
    slots[step.slot] = sum;
  }
  const int divisor = plan.op == ReduceOp::mean ? plan.divisor : 1;
  Lanes<T, kLanes> rounded;
  for (int i = 0; i < kLanes; ++i) round_to(rounded.of[i], divided(sum.of[i], divisor));
  *result = rounded;
}

template <typename T, int kLanes>
PEAL_ANYWHERE void divide_lanes(T* y, int divisor, std::size_t first) {
  auto* lanes = reinterpret_cast<Lanes<T, kLanes>*>(y + first);
  Lanes<T, kLanes> x = *lanes;
  for (int i = 0; i < kLanes; ++i) {
    round_to(x.of[i], divided(partial_of(x.of[i]), divisor));
  }
  *lanes = x;
}

// run.template operator()<T>() with the element type of a dtype.
template <typename Run>
void with_element(DType dtype, const Run& run) {
  switch (dtype) {
    case DType::f64:
      return run.template operator()<double>();
    case DType::f32:
      return run.template operator()<float>();
    case DType::f16:
      return run.template operator()<F16Element>();
    case DType::bf16:
      return run.template operator()<Bf16Element>();
    case DType::i64:
      return run.template operator()<std::int64_t>();
    case DType::i32:
      return run.template operator()<std::int32_t>();
    case DType::i8:
      return run.template operator()<std::int8_t>();
    case DType::u8:
      return run.template operator()<std::uint8_t>();
    case DType::boolean:
      return run.template operator()<BoolElement>();
  }
}

}  // namespace peal
