// Sums that are long enough for every form which a device has for them.
#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

TEST(LargeSums, Reduce) {
  Stream s;
  const std::pair<Shape, Shape> cases[] = {
      {{3, 5000}, {3, 1}},
      {{3, 5001}, {3, 1}},
      {{2, 70000}, {2, 1}},
      {{70001}, {1}},
      {{300, 2, 36}, {1, 2, 1}},
      {{300, 2, 37}, {1, 2, 1}},
      {{3000, 3, 4}, {1, 3, 1}},
      {{9, 700, 10}, {9, 1, 10}},
      {{2100, 40}, {1, 40}},
      {{40, 3, 20, 9}, {1, 3, 1, 9}},
      {{2, 5, 33, 65}, {2, 1, 33, 1}},
      {{520, 5000}, {520, 1}},
      {{9001, 5}, {1, 5}},
      {{3, 9000, 6}, {3, 1, 6}},
  };
  for (const auto& [from, to] : cases) {
    std::vector<float> x = normals(count(from), 1), y(count(to));
    std::vector<double> expected(y.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      expected[offset_of(index_of(static_cast<std::int64_t>(i), from), to)] += 0.5 * x[i];
    }
    kernels_under_test().reduce_sum(s, view(x, from), 0.5f, view(y, to));
    expect_close(y, expected, 0x1p-24 * 1.01, 1e-11);
  }
}

TEST(LargeSums, BatchNorm) {
  Stream s;
  constexpr float kEpsilon = 1e-3f;
  for (const Shape& shape : {Shape{40, 2, 20, 20}, Shape{90, 2, 14, 14}, Shape{100, 2, 9, 9},
                             Shape{120, 2, 9, 9}, Shape{700, 5}, Shape{600, 70}}) {
    const auto records = static_cast<std::size_t>(shape[0]);
    const auto channels = static_cast<std::size_t>(shape[1]);
    const std::size_t pixels = count(shape) / (records * channels);
    std::vector<float> x = normals(count(shape), 1, 2, 5), dy = normals(count(shape), 2);
    std::vector<float> weight(records, 1.0f), gamma = normals(channels, 3), dx(x.size());
    for (std::size_t b = 1; b < records; b += 3) weight[b] = 0;
    std::vector<float> mean(channels), variance(channels), dgamma(channels), dbeta(channels);
    const Shape row{shape[1]};
    const Tensor in = view(x, shape), w = view(weight, {shape[0]});
    kernels_under_test().batch_norm_statistics(s, in, w, view(mean, row), view(variance, row), {});
    kernels_under_test().batch_norm_backward(s, in, w, view(mean, row), view(variance, row),
                                             view(gamma, row), view(gamma, row), kEpsilon, {},
                                             Activation::none, view(dy, shape), {}, view(dx, shape),
                                             view(dgamma, row), view(dbeta, row), {});
    const auto n = static_cast<double>(std::count(weight.begin(), weight.end(), 1.0f)) *
                   static_cast<double>(pixels);
    std::vector<double> m(channels), v(channels), g(channels), b(channels), d(x.size());
    const auto for_values = [&](auto f) {
      for (std::size_t i = 0; i < x.size(); ++i) {
        if (weight[i / (channels * pixels)] > 0) f(i, i / pixels % channels);
      }
    };
    for_values([&](std::size_t i, std::size_t c) { m[c] += x[i] / n; });
    for_values([&](std::size_t i, std::size_t c) { v[c] += (x[i] - m[c]) * (x[i] - m[c]) / n; });
    for_values([&](std::size_t i, std::size_t c) {
      b[c] += dy[i];
      g[c] += dy[i] * (x[i] - m[c]) / std::sqrt(v[c] + static_cast<double>(kEpsilon));
    });
    for_values([&](std::size_t i, std::size_t c) {
      const double rstd = 1 / std::sqrt(v[c] + static_cast<double>(kEpsilon));
      d[i] = gamma[c] * rstd * (dy[i] - b[c] / n - (x[i] - m[c]) * rstd * g[c] / n);
    });
    expect_close(mean, m, 1e-7, 0, "mean");
    expect_close(variance, v, 1e-6, 0, "variance");
    expect_close(dgamma, g, 1e-6, 1e-5, "dgamma");
    expect_close(dbeta, b, 1e-6, 1e-5, "dbeta");
    expect_close(dx, d, 1e-6, 2e-6, "dx");
  }
}

TEST(LargeSums, PairsOfALoss) {
  Stream s;
  for (const Shape& shape : {Shape{700, 12}, Shape{700, 13}, Shape{9001, 12}, Shape{9001, 13}}) {
    std::vector<float> x = normals(count(shape), 1), t = normals(count(shape), 2);
    std::vector<float> weight = normals(static_cast<std::size_t>(shape[0]), 3);
    for (float& w : weight) w = std::fabs(w);
    double expected = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const auto columns = static_cast<std::size_t>(shape[1]);
      const double gap = static_cast<double>(x[i]) - t[i];
      expected += weight[i / columns] * gap * gap / static_cast<double>(columns);
    }
    float loss = -1;
    kernels_under_test().squared_error(s, view(x, shape), view(t, shape), view(weight, {shape[0]}),
                                       {.data = &loss, .shape = {}});
    EXPECT_NEAR(loss, expected, 1e-7 * expected);
  }
}

TEST(LargeSums, LossesOfManyRecords) {
  Stream s;
  constexpr std::size_t kRecords = 40000, kClasses = 3;
  constexpr auto kCount = static_cast<std::int64_t>(kRecords);
  std::vector<float> logits = normals(kRecords * kClasses, 1), saved(2 * kRecords),
                     dlogits(logits.size());
  std::vector<float> weight = normals(kRecords, 2), targets(kRecords);
  std::vector<std::int32_t> labels(kRecords);
  std::vector<double> gradient(logits.size());
  double of_classes = 0, of_yes_or_no = 0;
  for (std::size_t b = 0; b < kRecords; ++b) {
    weight[b] = b % 5 == 0 ? 0 : std::fabs(weight[b]);
    targets[b] = b % 2 == 0 ? 1.0f : 0.0f;
    labels[b] = static_cast<std::int32_t>(b * b % kClasses);
    const float* const x = logits.data() + b * kClasses;
    double total = 0;
    for (std::size_t c = 0; c < kClasses; ++c) total += std::exp(static_cast<double>(x[c]));
    for (std::size_t c = 0; c < kClasses; ++c) {
      const double chance = std::exp(static_cast<double>(x[c])) / total;
      gradient[b * kClasses + c] = weight[b] * (chance - (c == std::size_t(labels[b]) ? 1 : 0));
    }
    of_classes += weight[b] * (std::log(total) - x[labels[b]]);
    const double z = logits[b];
    of_yes_or_no += weight[b] * (std::log1p(std::exp(z)) - targets[b] * z);
  }
  float loss = -1, one = 1;
  const Tensor w = view(weight, {kCount}), out{.data = &loss, .shape = {}},
               kept = view(saved, {kCount, 2}), t = view(labels, {kCount});
  const Shape shape{kCount, kClasses};
  kernels_under_test().softmax_cross_entropy(s, view(logits, shape), t, w, kept, out);
  EXPECT_NEAR(loss, of_classes, 1e-6 * of_classes);
  kernels_under_test().softmax_cross_entropy_backward(
      s, view(logits, shape), kept, t, w, {.data = &one, .shape = {}}, view(dlogits, shape));
  expect_close(dlogits, gradient, 1e-6, 2e-7, "dlogits");
  kernels_under_test().binary_cross_entropy(s, {.data = logits.data(), .shape = {kCount}},
                                            view(targets, {kCount}), w, out);
  EXPECT_NEAR(loss, of_yes_or_no, 1e-6 * of_yes_or_no);
}

// Ids that are used more often than is sorted; rows of several parts; more rows than a block has
// threads.
TEST(LargeSums, EmbeddingInOrder) {
  Stream s;
  struct Case {
    std::int64_t ids, rows, columns;
    std::int32_t often;  // every second id
  };
  for (const auto& [n, rows, columns, often] :
       {Case{3000, 7, 8, 3}, Case{900, 5, 1200, 2}, Case{260, 40, 1101, 9}, Case{2500, 9, 1300, 4},
        Case{1000, 30, 64, 11}, Case{700, 3, 1, 1}, Case{1500, 2600, 12, 2100}}) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(n));
    const Random random({.seed = 5});
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto any = static_cast<std::int32_t>(random.u64(i) % static_cast<std::uint64_t>(rows));
      ids[i] = i % 2 == 0 ? often : any;
    }
    const auto width = static_cast<std::size_t>(columns);
    std::vector<float> dy = normals(ids.size() * width, 6);
    std::vector<float> dtable(static_cast<std::size_t>(rows) * width, 7.0f),
        expected(dtable.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      for (std::size_t c = 0; c < width; ++c) {
        expected[static_cast<std::size_t>(ids[i]) * width + c] += dy[i * width + c];
      }
    }
    check_embedding_backward(s, view(ids, {n}), view(dy, {n, columns}),
                             view(dtable, {rows, columns}));
    EXPECT_EQ(dtable, expected) << n << " ids of " << rows << " x " << columns;
  }
}

TEST(LargeSums, LowRank) {
  Stream s;
  struct Case {
    std::int64_t rows, columns, rank;
  };
  for (const auto& [rows, columns, rank] :
       {Case{5, 2052, 3}, Case{7, 2051, 20}, Case{70, 1024, 64}, Case{600, 24, 5}, Case{1100, 9, 2},
        Case{130, 260, 33}}) {
    const auto r = static_cast<std::size_t>(rows), c = static_cast<std::size_t>(columns);
    const auto k = static_cast<std::size_t>(rank);
    std::vector<float> m = normals(r * c, 1), g = normals(r * c, 2), q = normals(k * c, 3);
    std::vector<float> p(r * k), sum = m;
    for (std::size_t i = 0; i < m.size(); ++i) sum[i] += g[i];
    const Shape matrix{rows, columns}, left{rows, rank}, right{rank, columns};
    kernels_under_test().low_rank_project(s, view(g, matrix), view(q, right), view(m, matrix),
                                          view(p, left));
    EXPECT_EQ(m, sum);
    std::vector<double> expected(p.size());
    for (std::size_t i = 0; i < r; ++i) {
      for (std::size_t j = 0; j < k; ++j) {
        for (std::size_t l = 0; l < c; ++l) {
          expected[i * k + j] += static_cast<double>(m[i * c + l]) * q[j * c + l];
        }
      }
    }
    expect_close(p, expected, 1e-5, 3e-4, "p");
    kernels_under_test().low_rank_project_back(s, view(m, matrix), view(p, left), view(q, right));
    expected.assign(q.size(), 0);
    for (std::size_t i = 0; i < r; ++i) {
      for (std::size_t j = 0; j < k; ++j) {
        for (std::size_t l = 0; l < c; ++l) {
          expected[j * c + l] += static_cast<double>(p[i * k + j]) * m[i * c + l];
        }
      }
    }
    expect_close(q, expected, 1e-5, 2e-2, "q");
  }
}

TEST(LargeSums, Orthonormalize) {
  Stream s;
  constexpr std::int64_t kRows = 5003, kRank = 3;
  std::vector<float> p = normals(kRows * kRank, 1);
  for (std::size_t r = 0; r < kRows; ++r) p[r * kRank + 1] = p[r * kRank];  // is replaced
  const std::vector<float> before = p;
  const RandomKey key{.seed = 3, .step = 4, .site = 5};
  kernels_under_test().orthonormalize(s, key, view(p, {kRows, kRank}));
  const auto dot = [&](std::size_t j, std::size_t k) {
    double sum = 0;
    for (std::size_t r = 0; r < kRows; ++r) {
      sum += static_cast<double>(p[r * kRank + j]) * p[r * kRank + k];
    }
    return sum;
  };
  for (std::size_t j = 0; j < kRank; ++j) {
    for (std::size_t k = 0; k <= j; ++k) ASSERT_NEAR(dot(j, k), j == k ? 1 : 0, 1e-6);
  }
  // Column 1 is what of the draws of stream 1 lies across column 0.
  RandomKey of_column = key;
  of_column.stream = 1;
  const Random random(of_column);
  double along = 0, size = 0;
  for (std::size_t r = 0; r < kRows; ++r) along += random.normal(r) * p[r * kRank];
  for (std::size_t r = 0; r < kRows; ++r) {
    size += std::pow(random.normal(r) - along * p[r * kRank], 2);
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    const double expected = (random.normal(r) - along * p[r * kRank]) / std::sqrt(size);
    ASSERT_NEAR(p[r * kRank + 1], expected, 1e-7) << r;
  }
}

}  // namespace
}  // namespace peal::direct
