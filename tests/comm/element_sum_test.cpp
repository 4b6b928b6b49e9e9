// The arithmetic that the CUDA kernels run for each element, against the CPU's Reducer, to the bit.
#include "comm/element_sum.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/base/random.h"
#include "tests/comm/contract_types.h"

namespace peal {
namespace {

constexpr std::size_t kCount = 4099;  // no multiple of any number of lanes

// Every bit pattern but NaNs, whose other bits are nobody's promise; bools are 0 and 1. `spoilt`
// puts a NaN into every 16th element of this source.
template <typename T>
std::vector<T> numbers(std::uint64_t seed, bool spoilt) {
  std::vector<T> x(kCount);
  const Random random({.seed = seed, .step = 0, .stream = 0});
  for (std::size_t i = 0; i < kCount; ++i) {
    std::uint64_t bits = random.u64(i);
    // Half of the floats are of one size, so that sums round.
    if (i % 2 == 0 && std::is_same_v<T, float>) bits = 0x3f800000u + bits % 0x800000u;
    std::memcpy(static_cast<void*>(&x[i]), &bits, sizeof(T));
    if constexpr (std::is_same_v<T, contract::Truth>) x[i].byte &= 1;
    if constexpr (!std::is_integral_v<T> && !std::is_same_v<T, contract::Truth>) {
      if (std::isnan(contract::number(x[i]))) x[i] = contract::make<T>(1.5);
      if (spoilt && i % 16 == 3) x[i] = contract::make<T>(NAN);
    }
  }
  return x;
}

template <typename T>
bool same(const T& a, const T& b) {
  if (std::memcmp(&a, &b, sizeof(T)) == 0) return true;
  if constexpr (std::is_integral_v<T> || std::is_same_v<T, contract::Truth>) return false;
  return std::isnan(contract::number(a)) && std::isnan(contract::number(b));
}

// Rank `rank` of `ranks` owns the slice: its sources are its own memory, those of others arrived.
struct Owner {
  int first = 0, count = 0;
};

template <typename T, typename E, int kLanes>
void require_same_as_reducer(const ReducePlan& plan, Owner owner, ReduceOp op, bool spoilt,
                             bool in_place) {
  std::vector<std::vector<T>> sources;
  std::vector<const std::byte*> pointers;
  const std::size_t stride = align_up(kCount * sizeof(T));
  Buffer arrived(stride * static_cast<std::size_t>(plan.sources));
  SumSources where;
  where.arrived = arrived.data();
  where.stride = stride;
  where.first_own = owner.first;
  for (int k = 0; k < plan.sources; ++k) {
    sources.push_back(numbers<T>(static_cast<std::uint64_t>(k) + 11, spoilt && k == 1));
  }
  std::size_t place = 0;
  std::vector<Buffer> own;
  for (int k = 0; k < plan.sources; ++k) {
    auto& x = sources[static_cast<std::size_t>(k)];
    pointers.push_back(reinterpret_cast<const std::byte*>(x.data()));
    if (k >= owner.first && k < owner.first + owner.count) {
      own.emplace_back(stride);
      std::memcpy(own.back().data(), x.data(), kCount * sizeof(T));
      where.own[where.own_count++] = own.back().data();
    } else {
      std::memcpy(arrived.data() + stride * place++, x.data(), kCount * sizeof(T));
    }
  }
  std::vector<T> wanted(kCount);
  auto* wanted_bytes = reinterpret_cast<std::byte*>(wanted.data());
  Reducer().run(plan, contract::dtype_of<T>(), op, /*divisor=*/plan.sources, pointers,
                std::span(&wanted_bytes, 1), kCount);

  Buffer apart(stride);
  std::byte* y = in_place ? own[0].data() : apart.data();
  const SumSteps steps{plan.steps.data(), static_cast<int>(plan.steps.size()), op, plan.sources,
                       plan.rounds_each_step};
  std::size_t i = 0;
  for (; i + kLanes <= kCount; i += kLanes) {
    sum_lanes<E, kLanes>(steps, where, reinterpret_cast<E*>(y), i);
  }
  for (; i < kCount; ++i) sum_lanes<E, 1>(steps, where, reinterpret_cast<E*>(y), i);
  for (i = 0; i < kCount; ++i) {
    const T got = reinterpret_cast<const T*>(y)[i];
    ASSERT_TRUE(same(got, wanted[i]))
        << name_of(contract::dtype_of<T>()) << " op " << static_cast<int>(op) << " of "
        << plan.sources << ", " << kLanes << " lanes: element " << i << " is "
        << contract::number(got) << ", not " << contract::number(wanted[i]);
  }
}

template <typename T, typename E>
void compare_all() {
  for (const ReduceOp op :
       {ReduceOp::sum, ReduceOp::mean, ReduceOp::min, ReduceOp::max, ReduceOp::product}) {
    if (op == ReduceOp::mean && std::is_same_v<T, contract::Truth>) continue;
    for (int ranks = 1; ranks <= 5; ++ranks) {
      for (const int v : {ranks, 2 * ranks + 1, 16}) {
        const TreePlan tree = tree_plan(v, ranks);
        for (const int rank : {0, ranks - 1}) {
          const Owner owner{tree.first[static_cast<std::size_t>(rank)], tree.count(rank)};
          const bool spoilt = op == ReduceOp::min || op == ReduceOp::max;
          require_same_as_reducer<T, E, 16 / sizeof(T)>(tree.reduce, owner, op, spoilt, false);
          require_same_as_reducer<T, E, 1>(tree.reduce, owner, op, spoilt, true);
          if (op == ReduceOp::sum) {
            ReducePlan rounding = tree.reduce;
            rounding.rounds_each_step = true;
            require_same_as_reducer<T, E, 16 / sizeof(T)>(rounding, owner, op, false, true);
          }
        }
      }
      require_same_as_reducer<T, E, 16 / sizeof(T)>(chain_plan(ranks), {ranks - 1, 1}, op, false,
                                                    true);
    }
  }
}

TEST(ElementSum, IsTheReducersToTheBit) {
  contract::for_every_dtype([]<typename T>() {
    with_element(contract::dtype_of<T>(), []<typename E>() {
      if constexpr (sizeof(E) == sizeof(T)) {
        constexpr bool plain = std::is_arithmetic_v<T>;
        if constexpr (plain == std::is_arithmetic_v<E>) compare_all<T, E>();
      }
    });
  });
}

TEST(ElementSum, DividesTowardsZero) {
  std::int32_t x[4] = {7, -7, 6, -1};
  divide_lanes<std::int32_t, 4>(x, 3, 0);
  EXPECT_EQ(x[0], 2);
  EXPECT_EQ(x[1], -2);
  EXPECT_EQ(x[2], 2);
  EXPECT_EQ(x[3], 0);
}

// All trees that a job may have fit into the kernel's scratch slots.
TEST(ElementSum, TreesNeedFewSlots) {
  for (const int v : {1, 7, 1024, 65'535, 1 << 20}) {
    for (const int ranks : {1, 2, 3, 64, 1000}) {
      if (ranks <= v) {
        EXPECT_LE(tree_plan(v, ranks).reduce.slots, kMostSlots) << v << " over " << ranks;
      }
    }
  }
}

}  // namespace
}  // namespace peal
