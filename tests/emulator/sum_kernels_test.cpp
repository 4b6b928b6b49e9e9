// The launches of comm/nccl/sum_kernels.cu: every element once, and nothing outside, whatever the
// arrays' sizes and alignment. An element's arithmetic is tests/comm/element_sum_test.cpp's.
#include "comm/nccl/sum_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/comm/contract_types.h"

namespace peal {
namespace {

double own_number(std::size_t i) {
  return static_cast<double>(i % 5);
}
double arrived_number(std::size_t i) {
  return static_cast<double>(1 + i % 3);
}

// y = (own + arrived) / 2 of `count` numbers, of which an array's first `skipped` are others'.
template <typename T>
void check(std::size_t count, std::size_t skipped) {
  Stream s({Device::Kind::cuda, 0});
  std::vector<T> own(skipped + count), arrived(skipped + count), y(skipped + count);
  for (std::size_t i = 0; i < count; ++i) {
    own[skipped + i] = contract::make<T>(own_number(i));
    arrived[skipped + i] = contract::make<T>(arrived_number(i));
  }
  const auto bytes = [&](std::vector<T>& of) {
    return reinterpret_cast<std::byte*>(of.data() + skipped);
  };
  const ReducePlan plan = chain_plan(2);
  SumSources sources;
  sources.arrived = bytes(arrived);
  sources.own_count = 1;
  sources.own[0] = bytes(own);
  cuda::launch_sum(s, {plan.steps.data(), static_cast<int>(plan.steps.size())}, sources, bytes(y),
                   count, contract::dtype_of<T>());
  cuda::launch_divide(s, bytes(y), count, contract::dtype_of<T>(), 2);
  for (std::size_t i = 0; i < count; ++i) {
    const double half = (own_number(i) + arrived_number(i)) / 2;
    const bool whole = std::is_integral_v<T>;
    ASSERT_EQ(contract::number(y[skipped + i]), whole ? std::floor(half) : half)
        << name_of(contract::dtype_of<T>()) << ", element " << i << " of " << count;
  }
}

TEST(SumKernels, EveryElementOfArraysOfAnySize) {
  contract::for_every_dtype([]<typename T>() {
    if constexpr (!std::is_same_v<T, contract::Truth>) {
      for (const std::size_t count : {1, 15, 16, 4099}) {
        for (const std::size_t skipped : {0, 1}) check<T>(count, skipped);
      }
    }
  });
  check<float>(300001, 1);  // more than the largest grid has threads
}

}  // namespace
}  // namespace peal
