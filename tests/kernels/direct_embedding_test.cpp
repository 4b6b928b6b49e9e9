#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

TEST(DirectEmbedding, TakesRowsAndAddsGradientsInOrder) {
  Stream s;
  for (const std::int64_t columns : {1, 5, 16, 67}) {
    const auto width = static_cast<std::size_t>(columns);
    std::vector<std::int32_t> ids = {3, 0, 3, 9, 3, 1, 0};
    std::vector<float> table = normals(10 * width, 1), y(7 * width);
    kernels_under_test().embedding(s, view(ids, {7}), view(table, {10, columns}),
                                   view(y, {7, columns}));
    std::vector<float> dy = normals(7 * width, 2), dtable(10 * width, 7.0f);
    kernels_under_test().embedding_backward(s, view(ids, {7}), view(dy, {7, columns}),
                                            view(dtable, {10, columns}));
    std::vector<float> expected(10 * width);
    for (std::size_t i = 0; i < 7; ++i) {
      const std::size_t row = static_cast<std::size_t>(ids[i]) * width;
      for (std::size_t c = 0; c < width; ++c) {
        ASSERT_EQ(y[i * width + c], table[row + c]);
        expected[row + c] += dy[i * width + c];
      }
    }
    EXPECT_EQ(dtable, expected);
  }
}

}  // namespace
}  // namespace peal::direct
