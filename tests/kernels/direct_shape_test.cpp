#include <numeric>

#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

void expect_transposed(const Shape& shape, const std::vector<int>& perm) {
  std::vector<float> x = normals(count(shape), 1), y(x.size());
  Shape to;
  for (const int axis : perm) to.push_back(shape[axis]);
  Stream s;
  kernels_under_test().transpose(s, view(x, shape), perm, view(y, to));
  for (std::size_t i = 0; i < y.size(); ++i) {
    const auto index = index_of(static_cast<std::int64_t>(i), to);
    std::vector<std::int64_t> from(index.size());
    for (std::size_t axis = 0; axis < perm.size(); ++axis) {
      from[static_cast<std::size_t>(perm[axis])] = index[axis];
    }
    ASSERT_EQ(y[i], x[offset_of(from, shape)]) << shape << " to " << to << " element " << i;
  }
}

TEST(DirectTranspose, EveryPermutation) {
  const std::vector<Shape> shapes = {
      {},          {37},           {17, 35},     {1, 9},          {33, 1, 18},
      {5, 19, 21}, {2, 17, 1, 33}, {3, 4, 5, 6}, {2, 3, 2, 3, 4}, {2, 3, 1, 2, 3, 4}};
  for (const Shape& shape : shapes) {
    std::vector<int> perm(static_cast<std::size_t>(shape.rank()));
    std::iota(perm.begin(), perm.end(), 0);
    do {
      expect_transposed(shape, perm);
    } while (std::next_permutation(perm.begin(), perm.end()));
  }
}

struct BoxCase {
  Shape x, y, extent;
  std::vector<std::int64_t> x_start, y_start;
};

TEST(DirectCopyBox, CopiesTheBoxAndKeepsTheRest) {
  const std::vector<BoxCase> cases = {
      {{10}, {20}, {7}, {3}, {12}},
      {{4, 6}, {4, 9}, {4, 6}, {0, 0}, {0, 3}},  // concat of columns
      {{4, 6}, {9, 6}, {4, 6}, {0, 0}, {5, 0}},  // concat of rows
      {{4, 9}, {4, 1}, {4, 1}, {0, 8}, {0, 0}},  // one column
      {{3, 5, 7}, {4, 6, 8}, {2, 3, 4}, {1, 2, 3}, {2, 3, 4}},
      {{2, 3, 4, 5}, {2, 3, 4, 5}, {2, 3, 4, 5}, {0, 0, 0, 0}, {0, 0, 0, 0}},
      {{1, 5}, {3, 5}, {1, 5}, {0, 0}, {2, 0}},
      {{5, 5}, {5, 5}, {0, 5}, {0, 0}, {0, 0}},  // nothing
  };
  Stream s;
  for (const auto& box : cases) {
    std::vector<float> x = normals(count(box.x), 1), y = normals(count(box.y), 2), expected = y;
    for (std::int64_t i = 0; i < box.extent.numel(); ++i) {
      auto from = index_of(i, box.extent), to = from;
      for (std::size_t a = 0; a < from.size(); ++a) {
        from[a] += box.x_start[a];
        to[a] += box.y_start[a];
      }
      expected[offset_of(to, box.y)] = x[offset_of(from, box.x)];
    }
    kernels_under_test().copy_box(s, view(x, box.x), box.x_start, view(y, box.y), box.y_start,
                                  box.extent);
    EXPECT_EQ(y, expected) << box.x << " to " << box.y;
  }
}

}  // namespace
}  // namespace peal::direct
