#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

struct Sizes {
  std::int64_t rows, columns, rank;
};
const Sizes kSizes[] = {{1, 1, 1},   {3, 5, 2},    {8, 16, 4},   {9, 17, 1},
                        {33, 47, 3}, {40, 100, 4}, {31, 129, 7}, {70, 64, 9}};

// a (rows, inner) b (inner, columns) in f64; strides tell transposes.
std::vector<double> product(const std::vector<float>& a, const std::vector<float>& b,
                            std::int64_t rows, std::int64_t inner, std::int64_t columns,
                            bool transpose_a, bool transpose_b) {
  std::vector<double> c(static_cast<std::size_t>(rows * columns));
  const auto at = [](const std::vector<float>& x, std::int64_t i) {
    return static_cast<double>(x[static_cast<std::size_t>(i)]);
  };
  for (std::int64_t i = 0; i < rows; ++i) {
    for (std::int64_t j = 0; j < columns; ++j) {
      double& sum = c[static_cast<std::size_t>(i * columns + j)];
      for (std::int64_t k = 0; k < inner; ++k) {
        sum += at(a, transpose_a ? k * rows + i : i * inner + k) *
               at(b, transpose_b ? j * inner + k : k * columns + j);
      }
    }
  }
  return c;
}

TEST(DirectLowRank, ProjectsBothWaysAndExpands) {
  Stream s;
  for (const auto& [rows, columns, rank] : kSizes) {
    const auto n = static_cast<std::size_t>(rows * columns);
    std::vector<float> m = normals(n, 1), g = normals(n, 2);
    std::vector<float> q = normals(static_cast<std::size_t>(rank * columns), 3);
    std::vector<float> p(static_cast<std::size_t>(rows * rank)), y(n), sum = m;
    for (std::size_t i = 0; i < n; ++i) sum[i] += g[i];
    const Shape matrix{rows, columns}, p_shape{rows, rank}, q_shape{rank, columns};

    kernels_under_test().low_rank_project(s, view(g, matrix), view(q, q_shape), view(m, matrix),
                                          view(p, p_shape));
    EXPECT_EQ(m, sum);
    const double absolute = 1e-6 * static_cast<double>(rows + columns);
    expect_close(p, product(m, q, rows, columns, rank, false, true), 1e-5, absolute, "p");

    kernels_under_test().low_rank_project_back(s, view(m, matrix), view(p, p_shape),
                                               view(q, q_shape));
    const double larger = absolute * std::sqrt(static_cast<double>(columns));
    expect_close(q, product(p, m, rank, rows, columns, true, false), 1e-5, larger, "q");

    p = normals(p.size(), 4), q = normals(q.size(), 5);
    kernels_under_test().low_rank_expand(s, view(p, p_shape), view(q, q_shape), view(y, matrix));
    expect_close(y, product(p, q, rows, rank, columns, false, false), 1e-5, absolute, "y");

    kernels_under_test().subtract_scaled(s, 0.25f, view(y, {rows * columns}),
                                         view(sum, {rows * columns}));
    for (std::size_t i = 0; i < n; ++i) ASSERT_EQ(sum[i], m[i] - 0.25f * y[i]);
  }
}

TEST(DirectLowRank, RowsOfAProductAreThoseOfThePart) {
  Stream s;
  std::vector<float> p = normals(20 * 3, 1), q = normals(3 * 37, 2), whole(20 * 37), part(6 * 37);
  kernels_under_test().low_rank_expand(s, view(p, {20, 3}), view(q, {3, 37}),
                                       view(whole, {20, 37}));
  const Tensor some{.data = p.data() + 7 * 3, .shape = {6, 3}};
  kernels_under_test().low_rank_expand(s, some, view(q, {3, 37}), view(part, {6, 37}));
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 7 * 37));
}

TEST(DirectLowRank, BitsDoNotDependOnAlignment) {
  Stream s;
  constexpr std::int64_t kRows = 13, kColumns = 53, kRank = 4;
  const std::vector<float> m = normals(kRows * kColumns, 1), q = normals(kRank * kColumns, 2);
  std::vector<float> first;
  for (const std::size_t shift : {0u, 1u, 3u}) {
    std::vector<float> moved(m.size() + shift), g(m.size()), by = q, p(kRows * kRank);
    std::copy(m.begin(), m.end(), moved.begin() + static_cast<std::ptrdiff_t>(shift));
    const Tensor at{.data = moved.data() + shift, .shape = {kRows, kColumns}};
    kernels_under_test().low_rank_project(s, view(g, {kRows, kColumns}),
                                          view(by, {kRank, kColumns}), at, view(p, {kRows, kRank}));
    kernels_under_test().low_rank_project_back(s, at, view(p, {kRows, kRank}),
                                               view(by, {kRank, kColumns}));
    p.insert(p.end(), by.begin(), by.end());
    if (first.empty()) first = p;
    EXPECT_EQ(p, first);
  }
}

double column_dot(const std::vector<float>& p, std::int64_t rank, std::int64_t j, std::int64_t k) {
  double sum = 0;
  for (std::size_t r = 0; r < p.size(); r += static_cast<std::size_t>(rank)) {
    sum += static_cast<double>(p[r + static_cast<std::size_t>(j)]) *
           p[r + static_cast<std::size_t>(k)];
  }
  return sum;
}

void expect_orthonormal(const std::vector<float>& p, std::int64_t rank) {
  for (std::int64_t j = 0; j < rank; ++j) {
    for (std::int64_t k = 0; k <= j; ++k) {
      ASSERT_NEAR(column_dot(p, rank, j, k), j == k ? 1 : 0, 1e-5) << j << ' ' << k;
    }
  }
}

TEST(DirectOrthonormalize, KeepsTheSpaceOfTheColumns) {
  Stream s;
  for (const auto& [rows, columns, rank] : kSizes) {
    if (rank > rows) continue;
    std::vector<float> p = normals(static_cast<std::size_t>(rows * rank), 1), before = p;
    kernels_under_test().orthonormalize(s, {.seed = 1}, view(p, {rows, rank}));
    expect_orthonormal(p, rank);
    // Each old column is a combination of the new ones up to its own number.
    for (std::int64_t k = 0; k < rank; ++k) {
      double size = 0, found = 0;
      for (std::int64_t r = 0; r < rows; ++r) {
        const double x = before[static_cast<std::size_t>(r * rank + k)];
        size += x * x;
      }
      for (std::int64_t j = 0; j <= k; ++j) {
        double along = 0;
        for (std::int64_t r = 0; r < rows; ++r) {
          along += static_cast<double>(before[static_cast<std::size_t>(r * rank + k)]) *
                   p[static_cast<std::size_t>(r * rank + j)];
        }
        found += along * along;
      }
      ASSERT_NEAR(found / size, 1, 1e-5);
    }
  }
}

TEST(DirectOrthonormalize, ReplacesColumnsThatDependOnOthers) {
  Stream s;
  constexpr std::int64_t kRows = 30, kRank = 4;
  std::vector<float> p = normals(kRows * kRank, 1);
  for (std::size_t r = 0; r < kRows; ++r) {
    p[r * kRank + 1] = 3 * p[r * kRank];
    p[r * kRank + 2] = 0;
  }
  std::vector<float> again = p, other = p;
  kernels_under_test().orthonormalize(s, {.seed = 1, .step = 5}, view(p, {kRows, kRank}));
  kernels_under_test().orthonormalize(s, {.seed = 1, .step = 5}, view(again, {kRows, kRank}));
  kernels_under_test().orthonormalize(s, {.seed = 1, .step = 6}, view(other, {kRows, kRank}));
  expect_orthonormal(p, kRank);
  EXPECT_EQ(p, again);
  EXPECT_NE(p, other);
  std::vector<float> zeros(kRows * kRank);
  kernels_under_test().orthonormalize(s, {.seed = 1}, view(zeros, {kRows, kRank}));
  expect_orthonormal(zeros, kRank);
}

}  // namespace
}  // namespace peal::direct
