#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

struct ReduceCase {
  Shape x, y;
};

const std::vector<ReduceCase>& cases() {
  static const std::vector<ReduceCase> all = {
      {{1001}, {1}},
      {{6, 33}, {1, 33}},
      {{6, 33}, {6, 1}},
      {{6, 33}, {1, 1}},
      {{6, 33}, {6, 33}},
      {{512, 3}, {1, 3}},
      {{3, 1300}, {1, 1300}},
      {{4, 3, 5, 7}, {1, 3, 1, 1}},
      {{4, 3, 5, 7}, {4, 1, 5, 1}},
      {{4, 3, 5, 7}, {1, 3, 1, 7}},
      {{4, 3, 5, 7}, {4, 1, 1, 7}},
      {{1, 3, 1, 7}, {1, 1, 1, 7}},
      {{}, {}},
      {{2, 3, 2, 3, 2, 17}, {2, 1, 2, 1, 2, 1}},
      {{2, 3, 2, 3, 2, 17}, {1, 3, 1, 3, 1, 17}},
  };
  return all;
}

TEST(DirectReduceSum, AddsUpOverTheAxesOfOne) {
  Stream s;
  for (const auto& shapes : cases()) {
    std::vector<float> x = normals(count(shapes.x), 1), y(count(shapes.y));
    std::vector<double> expected(y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      expected[offset_of(index_of(static_cast<std::int64_t>(i), shapes.x), shapes.y)] +=
          static_cast<double>(x[i]) * 0.7f;
    }
    kernels_under_test().reduce_sum(s, view(x, shapes.x), 0.7f, view(y, shapes.y));
    expect_close(y, expected, 0x1p-24 * 1.01, 1e-12);
  }
}

TEST(DirectReduceSum, BitsDoNotDependOnAlignment) {
  Stream s;
  for (const auto& shapes : cases()) {
    std::vector<float> x = normals(count(shapes.x), 2, 1000), y(count(shapes.y)), again(y.size());
    kernels_under_test().reduce_sum(s, view(x, shapes.x), 1.0f, view(y, shapes.y));
    for (const std::size_t shift : {0u, 1u, 3u}) {
      std::vector<float> moved(x.size() + shift);
      std::copy(x.begin(), x.end(), moved.begin() + static_cast<std::ptrdiff_t>(shift));
      kernels_under_test().reduce_sum(s, {.data = moved.data() + shift, .shape = shapes.x}, 1.0f,
                                      view(again, shapes.y));
      EXPECT_EQ(y, again);
    }
  }
}

TEST(DirectSumSquares, OneSumPerBlock) {
  Stream s;
  for (const std::int64_t n : {1, 15, 4095, 4096, 4097, 12345}) {
    std::vector<float> x = normals(static_cast<std::size_t>(n), 3);
    const auto blocks = static_cast<std::size_t>((n + 4095) / 4096);
    std::vector<double> sums(blocks, -1), expected(blocks);
    for (std::size_t i = 0; i < x.size(); ++i) {
      expected[i / 4096] += static_cast<double>(x[i]) * x[i];
    }
    const Tensor out{
        .data = sums.data(), .shape = {static_cast<std::int64_t>(blocks)}, .dtype = DType::f64};
    kernels_under_test().sum_squares(s, view(x, {n}), out);
    for (std::size_t i = 0; i < blocks; ++i) EXPECT_NEAR(sums[i], expected[i], 1e-13 * sums[i]);
    std::vector<double> first = sums;
    std::vector<float> moved(x.size() + 1);
    std::copy(x.begin(), x.end(), moved.begin() + 1);
    kernels_under_test().sum_squares(s, {.data = moved.data() + 1, .shape = {n}}, out);
    EXPECT_EQ(sums, first);
  }
}

}  // namespace
}  // namespace peal::direct
