#include "core/base/error.h"
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
    check_embedding_backward(s, view(ids, {7}), view(dy, {7, columns}),
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

// Of a text: an id that a tenth of it has, others with lists long and short, and most with none.
TEST(DirectEmbedding, AddsUpLongLists) {
  Stream s;
  constexpr std::int64_t kEntries = 301, kIds = 3000;
  std::vector<std::int32_t> ids(kIds);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::uint64_t draw = mix64(i);
    ids[i] = static_cast<std::int32_t>(draw % 10 == 0   ? 7
                                       : draw % 10 == 1 ? draw / 10 % 3
                                       : draw % 10 < 6  ? 20 + draw / 10 % 20
                                                        : 50 + draw / 10 % 200);
  }
  for (const std::int64_t columns : {12, 72, 264, 515, 8400}) {
    if (columns > 1000 && test_device().device.kind == Device::Kind::cpu) continue;
    const auto width = static_cast<std::size_t>(columns);
    const std::vector<float> dy = normals(kIds * width, 2);
    std::vector<float> given = dy, dtable(kEntries * width, 7.0f);
    check_embedding_backward(s, view(ids, {kIds}), view(given, {kIds, columns}),
                             view(dtable, {kEntries, columns}));
    std::vector<double> expected(kEntries * width);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::size_t row = static_cast<std::size_t>(ids[i]) * width;
      for (std::size_t c = 0; c < width; ++c) expected[row + c] += dy[i * width + c];
    }
    expect_close(dtable, expected, 1e-6, 3e-5, cat(columns, " columns"));
  }
}

}  // namespace
}  // namespace peal::direct
