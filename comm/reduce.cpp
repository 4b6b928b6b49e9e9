#include "comm/reduce.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "core/base/error.h"

namespace peal {
namespace {

constexpr std::size_t kBlockBytes = 4096;

// Integers wrap around, as unsigned ones do.
template <typename T, typename F>
T wrapped(T a, T b, F f) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::conditional_t<sizeof(T) < 4, std::uint32_t, std::make_unsigned_t<T>>;
    return static_cast<T>(f(static_cast<U>(a), static_cast<U>(b)));
  } else {
    return f(a, b);
  }
}

struct Sum {
  template <typename T>
  static T of(T a, T b) {
    return wrapped(a, b, [](auto p, auto q) { return p + q; });
  }
};
struct Product {
  template <typename T>
  static T of(T a, T b) {
    return wrapped(a, b, [](auto p, auto q) { return p * q; });
  }
};
// A NaN on either side wins, so that it reaches every rank.
struct Min {
  template <typename T>
  static T of(T a, T b) {
    return a < b || a != a ? a : b;
  }
};
struct Max {
  template <typename T>
  static T of(T a, T b) {
    return a > b || a != a ? a : b;
  }
};

// `out` may be `a` or `b` itself, but does not overlap them otherwise.
template <typename T, typename Op>
void combine(std::byte* out, const std::byte* a, const std::byte* b, std::size_t bytes) {
  T* o = reinterpret_cast<T*>(out);
  const T* p = reinterpret_cast<const T*>(a);
  const T* q = reinterpret_cast<const T*>(b);
  const std::size_t n = bytes / sizeof(T);
#pragma GCC ivdep
  for (std::size_t i = 0; i < n; ++i) o[i] = Op::of(p[i], q[i]);
}

template <typename T>
void divide(std::byte* out, std::size_t bytes, int divisor) {
  T* o = reinterpret_cast<T*>(out);
  const std::size_t n = bytes / sizeof(T);
  for (std::size_t i = 0; i < n; ++i) o[i] = static_cast<T>(o[i] / static_cast<T>(divisor));
}

struct Functions {
  void (*combine)(std::byte*, const std::byte*, const std::byte*, std::size_t);
  void (*divide)(std::byte*, std::size_t, int);
};

template <typename T>
Functions functions_for(ReduceOp op) {
  switch (op) {
    case ReduceOp::sum:
      return {combine<T, Sum>, nullptr};
    case ReduceOp::mean:
      return {combine<T, Sum>, divide<T>};
    case ReduceOp::min:
      return {combine<T, Min>, nullptr};
    case ReduceOp::max:
      return {combine<T, Max>, nullptr};
    case ReduceOp::product:
      return {combine<T, Product>, nullptr};
  }
  fail_internal("reduce", "unknown operation ", static_cast<int>(op));
}

Functions functions_for(DType dtype, ReduceOp op) {
  switch (dtype) {
    case DType::f32:
      return functions_for<float>(op);
    case DType::f64:
      return functions_for<double>(op);
    case DType::i32:
      return functions_for<std::int32_t>(op);
    case DType::i64:
      return functions_for<std::int64_t>(op);
    case DType::u8:
      return functions_for<std::uint8_t>(op);
    default:
      fail_internal("reduce", "no kernel for ", name_of(dtype));
  }
}

void add_step(ReducePlan& plan, std::vector<int>& free_slots, int& left, int right) {
  int slot = 0;
  if (left < 0) {
    slot = ~left;
    if (right < 0) free_slots.push_back(~right);
  } else if (right < 0) {
    slot = ~right;
  } else if (!free_slots.empty()) {
    slot = free_slots.back();
    free_slots.pop_back();
  } else {
    slot = plan.slots++;
  }
  plan.steps.push_back({slot, left, right});
  left = ~slot;
}

}  // namespace

ReducePlan chain_plan(int sources) {
  ReducePlan plan;
  plan.sources = sources;
  std::vector<int> free_slots;
  int sum = 0;
  for (int k = 1; k < sources; ++k) add_step(plan, free_slots, sum, k);
  return plan;
}

TreePlan tree_plan(int virtual_ranks, int ranks) {
  TreePlan plan;
  std::vector<TreeNode> nodes;
  plan.first.push_back(0);
  for (int r = 0; r < ranks; ++r) {
    const auto mine = maximal_nodes(virtual_ranks, block_of(virtual_ranks, ranks, r));
    nodes.insert(nodes.end(), mine.begin(), mine.end());
    plan.first.push_back(static_cast<int>(nodes.size()));
    plan.most = std::max(plan.most, static_cast<int>(mine.size()));
  }
  plan.reduce.sources = static_cast<int>(nodes.size());
  std::vector<int> operand(nodes.size()), free_slots;
  for (std::size_t k = 0; k < nodes.size(); ++k) operand[k] = static_cast<int>(k);
  for (const TreeAdd& add : tree_schedule(virtual_ranks, nodes)) {
    add_step(plan.reduce, free_slots, operand[add.into], operand[add.from]);
  }
  return plan;
}

void Reducer::run(const ReducePlan& plan, DType dtype, ReduceOp op, int divisor,
                  std::span<const std::byte* const> sources, std::span<std::byte* const> outputs,
                  std::size_t elements) {
  const Functions f = functions_for(dtype, op);
  const std::size_t slots = static_cast<std::size_t>(std::max(plan.slots, 1));
  if (scratch_.size() < (slots + 1) * kBlockBytes) scratch_.resize((slots + 1) * kBlockBytes);
  std::byte* slot0 = scratch_.data();
  slot0 +=
      align_up(reinterpret_cast<std::uintptr_t>(slot0)) - reinterpret_cast<std::uintptr_t>(slot0);

  const std::size_t total = elements * size_of(dtype);
  for (std::size_t at = 0; at < total; at += kBlockBytes) {
    const std::size_t bytes = std::min(kBlockBytes, total - at);
    const auto operand = [&](int k) -> const std::byte* {
      return k >= 0 ? sources[k] + at : slot0 + static_cast<std::size_t>(~k) * kBlockBytes;
    };
    const std::byte* result = sources[0] + at;
    for (const ReducePlan::Step& step : plan.steps) {
      std::byte* into = slot0 + static_cast<std::size_t>(step.slot) * kBlockBytes;
      f.combine(into, operand(step.left), operand(step.right), bytes);
      result = into;
    }
    if (f.divide != nullptr) {
      if (result != slot0) std::memcpy(slot0, result, bytes);
      f.divide(slot0, bytes, divisor);
      result = slot0;
    }
    for (std::byte* output : outputs) {
      if (output + at != result) std::memcpy(output + at, result, bytes);
    }
  }
}

Slice slice_of(std::size_t count, int ranks, int rank, std::size_t element_size) {
  const std::size_t unit = kAlignment / element_size;
  const std::size_t units = (count + unit - 1) / unit;
  const auto bound = [&](std::size_t r) {
    return std::min(count, units * r / static_cast<std::size_t>(ranks) * unit);
  };
  return {bound(rank), bound(rank + 1)};
}

}  // namespace peal
