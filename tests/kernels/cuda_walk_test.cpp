// The arithmetic of indices in CUDA kernels, which needs no GPU: positions against loops.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/kernels/cuda/walk.h"

namespace peal::cuda {
namespace {

TEST(CudaDivision, IsExactBelowTwoToThe31) {
  const std::uint32_t last = (std::uint32_t{1} << 31) - 1;
  std::vector<std::uint32_t> divisors(2000);
  std::iota(divisors.begin(), divisors.end(), 1);
  for (int bit = 11; bit < 31; ++bit) {
    for (const int around : {-1, 0, 1}) divisors.push_back((std::uint32_t{1} << bit) + around);
  }
  for (const std::uint32_t d : {1000003u, 0x55555555u, 0x7ffffffeu, last, last + 1}) {
    divisors.push_back(d);
  }
  for (const std::uint32_t d : divisors) {
    const Division by = Division::by(d);
    for (std::uint64_t multiple = 0; multiple <= last;
         multiple += d * std::uint64_t{1 + last / d / 64}) {
      for (const std::uint64_t n : {multiple, multiple + 1, multiple + d - 1}) {
        if (n > last) continue;
        ASSERT_EQ(by.quotient(static_cast<std::uint32_t>(n)), n / d) << n << " / " << d;
      }
    }
    ASSERT_EQ(by.quotient(last), last / d) << d;
  }
}

// Where every `width`-th element of the nest lies, by its loops.
std::vector<Steps> by_loops(const Nest& nest, int width) {
  std::vector<Steps> found;
  std::int64_t i = 0;
  nest.for_each([&](const Steps& at) {
    if (i++ % width == 0) found.push_back(at);
  });
  return found;
}

std::vector<Steps> by_walks(const Nest& nest, int width, std::int64_t most_positions,
                            std::int64_t most_step) {
  std::vector<Steps> found;
  const auto add = [&](const Walk& walk, const Steps& start) {
    ASSERT_LT(walk.positions, most_positions);
    for (std::uint32_t position = 0; position < walk.positions; ++position) {
      std::int64_t at[3];
      walk.find(position, at);
      found.push_back({start[0] + at[0], start[1] + at[1], start[2] + at[2]});
    }
  };
  for_parts(nest, width, add, {}, most_positions, most_step);
  return found;
}

// x, which is broadcast along dimensions of 1, permuted to y's order of axes.
Nest nest_of(const Shape& x, const std::vector<int>& perm) {
  Shape y;
  for (const int axis : perm) y.push_back(x[axis] == 1 ? 3 : x[axis]);
  const auto x_strides = repeat_strides(x, x.rank());
  const auto y_strides = repeat_strides(y, y.rank());
  Nest nest;
  for (std::size_t i = 0; i < perm.size(); ++i) {
    const auto axis = static_cast<std::size_t>(perm[i]);
    nest.add(y[static_cast<int>(i)], {x_strides[axis], y_strides[i], 7});
  }
  return nest;
}

TEST(CudaWalk, GoesWhereTheLoopsGo) {
  const std::vector<Shape> shapes = {
      {},        {37},         {0, 5},       {17, 35},     {12, 8},         {4, 1, 8},
      {1, 5, 1}, {2, 3, 4, 1}, {5, 1, 6, 4}, {2, 1, 4, 3}, {2, 3, 1, 3, 2}, {2, 3, 1, 4, 1, 4}};
  for (const Shape& x : shapes) {
    std::vector<int> perm(static_cast<std::size_t>(x.rank()));
    std::iota(perm.begin(), perm.end(), 0);
    do {
      const Nest nest = nest_of(x, perm);
      const bool wide = nest.rank() > 0 && nest[nest.rank() - 1].size % 4 == 0;
      for (const int width : wide ? std::vector{1, 4} : std::vector{1}) {
        const auto expected = by_loops(nest, width);
        EXPECT_EQ(by_walks(nest, width, kMostPositions, kMostStep), expected) << x;
        // As what is too large for one launch is cut.
        EXPECT_EQ(by_walks(nest, width, 7, kMostStep), expected) << x;
      }
    } while (std::next_permutation(perm.begin(), perm.end()));
  }
}

// Steps that are too large stand along one axis, wherever it is; the order of positions is another.
TEST(CudaWalk, CutsAxesOfLargeSteps) {
  Nest nest;
  nest.add(3, {4, 20, 0});
  nest.add(5, {100, 4, 0});
  nest.add(4, {1, 1, 0});
  auto expected = by_loops(nest, 1), found = by_walks(nest, 1, kMostPositions, 100);
  EXPECT_NE(found, expected);  // it was cut
  std::sort(expected.begin(), expected.end());
  std::sort(found.begin(), found.end());
  EXPECT_EQ(found, expected);
}

}  // namespace
}  // namespace peal::cuda
