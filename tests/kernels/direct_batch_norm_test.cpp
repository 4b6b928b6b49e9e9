#include "core/kernels/layout.h"
#include "tests/kernels/direct_support.h"

namespace peal::direct::batch_norm_test {
namespace {

constexpr float kEpsilon = 1e-3f;

// (B, C, pixels) with weights; every third record is padded unless `dense`.
struct Case {
  Case(Shape s, bool dense, double offset = 0.5)
      : shape(std::move(s)),
        records(static_cast<std::size_t>(shape[0])),
        channels(static_cast<std::size_t>(shape[1])),
        pixels(count(shape) / (records * channels)),
        x(normals(count(shape), 1, 2, offset)),
        dy(normals(count(shape), 2)),
        gamma(normals(channels, 3)),
        beta(normals(channels, 4)),
        weight(records, 1.0f) {
    for (std::size_t b = 1; b < records && !dense; b += 3) weight[b] = 0;
  }

  std::size_t at(std::size_t b, std::size_t c, std::size_t p) const {
    return (b * channels + c) * pixels + p;
  }
  double values() const {
    return static_cast<double>(std::count(weight.begin(), weight.end(), 1.0f)) *
           static_cast<double>(pixels);
  }
  Tensor per_channel(std::vector<float>& v) const {
    return view(v, {static_cast<std::int64_t>(channels)});
  }
  Tensor weights() { return view(weight, {shape[0]}); }

  Shape shape;
  std::size_t records, channels, pixels;
  std::vector<float> x, dy, gamma, beta, weight;
};

struct Moments {
  std::vector<double> mean, variance;
};

Moments reference_moments(const Case& k, const std::vector<double>& x) {
  Moments m{std::vector<double>(k.channels), std::vector<double>(k.channels)};
  const double n = k.values();
  for (int pass = 0; pass < 2; ++pass) {
    for (std::size_t c = 0; c < k.channels && n > 0; ++c) {
      for (std::size_t b = 0; b < k.records; ++b) {
        for (std::size_t p = 0; p < k.pixels && k.weight[b] > 0; ++p) {
          const double v = x[k.at(b, c, p)];
          if (pass == 0) m.mean[c] += v / n;
          if (pass == 1) m.variance[c] += (v - m.mean[c]) * (v - m.mean[c]) / n;
        }
      }
    }
  }
  return m;
}

std::vector<double> reference_output(const Case& k, const std::vector<double>& x,
                                     const std::vector<double>& gamma,
                                     const std::vector<double>& beta) {
  const Moments m = reference_moments(k, x);
  std::vector<double> y(x.size());
  for (std::size_t b = 0; b < k.records; ++b) {
    for (std::size_t c = 0; c < k.channels; ++c) {
      for (std::size_t p = 0; p < k.pixels; ++p) {
        y[k.at(b, c, p)] = (x[k.at(b, c, p)] - m.mean[c]) /
                               std::sqrt(m.variance[c] + static_cast<double>(kEpsilon)) * gamma[c] +
                           beta[c];
      }
    }
  }
  return y;
}

// sum of dy * y over the records that count
double objective(const Case& k, const std::vector<double>& y) {
  double sum = 0;
  for (std::size_t i = 0; i < y.size(); ++i) {
    sum += k.weight[i / (k.channels * k.pixels)] * static_cast<double>(k.dy[i]) * y[i];
  }
  return sum;
}

struct Result {
  std::vector<float> mean, variance, contribution, y, dx, dgamma, dbeta;
};

Result run(Case& k) {
  Stream s;
  Result r;
  for (auto* v : {&r.mean, &r.variance, &r.dgamma, &r.dbeta}) v->resize(k.channels);
  r.contribution.assign(2 * k.channels + 1, 9.0f);
  r.y.resize(k.x.size());
  r.dx.resize(k.x.size());
  const Tensor x = view(k.x, k.shape), mean = k.per_channel(r.mean);
  const Tensor variance = k.per_channel(r.variance), gamma = k.per_channel(k.gamma);
  kernels_under_test().batch_norm_statistics(s, x, k.weights(), mean, variance,
                                             view(r.contribution, {2 * k.shape[1] + 1}));
  kernels_under_test().batch_norm(s, x, mean, variance, gamma, k.per_channel(k.beta), kEpsilon, {},
                                  Activation::none, view(r.y, k.shape));
  kernels_under_test().batch_norm_backward(s, x, k.weights(), mean, variance, gamma,
                                           k.per_channel(k.beta), kEpsilon, {}, Activation::none,
                                           view(k.dy, k.shape), {}, view(r.dx, k.shape),
                                           k.per_channel(r.dgamma), k.per_channel(r.dbeta), {});
  return r;
}

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const bool dense : {true, false}) {
    all.emplace_back(Shape{7, 3}, dense);
    all.emplace_back(Shape{5, 300}, dense);
    all.emplace_back(Shape{4, 3, 5}, dense);
    all.emplace_back(Shape{4, 3, 5, 7}, dense);
    all.emplace_back(Shape{3, 2, 4, 4}, dense);
    all.emplace_back(Shape{2, 260, 2, 2}, dense);
  }
  return all;
}

TEST(DirectBatchNorm, StatisticsAndOutput) {
  for (Case& k : cases()) {
    const Result r = run(k);
    const Moments m = reference_moments(k, doubles(k.x));
    expect_close(r.mean, m.mean, 7e-8, 1e-14);
    expect_close(r.variance, m.variance, 7e-8, 1e-14);
    expect_close(r.y, reference_output(k, doubles(k.x), doubles(k.gamma), doubles(k.beta)), 4e-7,
                 2e-6);
  }
}

TEST(DirectBatchNorm, VarianceSurvivesALargeMean) {
  Case k({64, 3, 8, 8}, true, 3000);
  const Result r = run(k);
  expect_close(r.variance, reference_moments(k, doubles(k.x)).variance, 1e-6, 0);
}

TEST(DirectBatchNorm, BackwardFollowsFiniteDifferences) {
  for (Case& k : cases()) {
    if (k.x.size() > 600) continue;  // finite differences visit all pairs
    const Result r = run(k);
    const auto x = doubles(k.x), gamma = doubles(k.gamma), beta = doubles(k.beta);
    expect_close(r.dx,
                 numeric_gradient(
                     [&](const std::vector<double>& v) {
                       return objective(k, reference_output(k, v, gamma, beta));
                     },
                     x),
                 1e-6, 1e-6, "dx");
    expect_close(r.dgamma,
                 numeric_gradient(
                     [&](const std::vector<double>& v) {
                       return objective(k, reference_output(k, x, v, beta));
                     },
                     gamma),
                 1e-6, 1e-6, "dgamma");
    expect_close(r.dbeta,
                 numeric_gradient(
                     [&](const std::vector<double>& v) {
                       return objective(k, reference_output(k, x, gamma, v));
                     },
                     beta),
                 1e-6, 1e-6, "dbeta");
  }
}

TEST(DirectBatchNorm, PaddedRecordsCountNowhere) {
  for (Case& k : cases()) {
    const Result clean = run(k);
    const std::size_t record = k.channels * k.pixels;
    for (std::size_t i = 0; i < k.x.size(); ++i) {
      if (k.weight[i / record] > 0) continue;
      k.x[i] = 1e30f;
      k.dy[i] = std::numeric_limits<float>::quiet_NaN();
    }
    const Result dirty = run(k);
    EXPECT_EQ(clean.mean, dirty.mean);
    EXPECT_EQ(clean.variance, dirty.variance);
    EXPECT_EQ(clean.dgamma, dirty.dgamma);
    EXPECT_EQ(clean.dbeta, dirty.dbeta);
    EXPECT_EQ(clean.dx, dirty.dx);
    for (std::size_t i = 0; i < k.x.size(); ++i) {
      if (k.weight[i / record] == 0) {
        ASSERT_EQ(dirty.dx[i], 0.0f);
      }
    }
  }
}

TEST(DirectBatchNorm, ABatchOfPaddingGivesZeros) {
  for (const Shape& shape : {Shape{3, 4}, Shape{3, 4, 5, 5}}) {
    Case k(shape, true);
    std::fill(k.weight.begin(), k.weight.end(), 0.0f);
    const Result r = run(k);
    const std::vector<float> none(k.channels, 0.0f);
    EXPECT_EQ(r.mean, none);
    EXPECT_EQ(r.variance, none);
    EXPECT_EQ(r.dgamma, none);
    EXPECT_EQ(r.dbeta, none);
    EXPECT_EQ(r.dx, std::vector<float>(k.x.size(), 0.0f));
    for (const float y : r.y) EXPECT_TRUE(std::isfinite(y));
  }
}

// Statistics, output and gradients with relu and what is added, by one kernel or by several.
struct Fused {
  std::vector<float> y, dx, dgamma, dbeta, dresidual;
  friend bool operator==(const Fused&, const Fused&) = default;
};

Fused run_fused(Case& k, bool residual, bool at_once) {
  Stream s;
  Kernels& kernels = kernels_under_test();
  std::vector<float> mean(k.channels), variance(k.channels), added = normals(k.x.size(), 5);
  std::vector<float> between(k.x.size()), g(k.x.size());
  Fused f;
  for (auto* v : {&f.dgamma, &f.dbeta}) v->resize(k.channels);
  for (auto* v : {&f.y, &f.dx, &f.dresidual}) v->resize(k.x.size());
  const Tensor x = view(k.x, k.shape), w = k.weights(), m = k.per_channel(mean);
  const Tensor v = k.per_channel(variance), gamma = k.per_channel(k.gamma);
  const Tensor beta = k.per_channel(k.beta), y = view(f.y, k.shape), dx = view(f.dx, k.shape);
  const Tensor dgamma = k.per_channel(f.dgamma), dbeta = k.per_channel(f.dbeta);
  const Tensor dresidual = view(f.dresidual, k.shape), dy = view(k.dy, k.shape);
  std::vector<float> second = normals(k.x.size(), 6), summed = k.dy;
  const Tensor more_dy = view(second, k.shape), sum = view(summed, k.shape);
  kernels.batch_norm_statistics(s, x, w, m, v, {});
  constexpr auto kRelu = Activation::relu, kNone = Activation::none;
  if (at_once) {
    kernels.batch_norm(s, x, m, v, gamma, beta, kEpsilon,
                       residual ? view(added, k.shape) : Tensor{}, kRelu, y);
    kernels.batch_norm_backward(s, x, w, m, v, gamma, beta, kEpsilon, residual ? y : Tensor{},
                                kRelu, dy, residual ? more_dy : Tensor{}, dx, dgamma, dbeta,
                                residual ? dresidual : Tensor{});
    return f;
  }
  const Tensor z = view(between, k.shape), masked = view(g, k.shape);
  kernels.batch_norm(s, x, m, v, gamma, beta, kEpsilon, {}, kNone, z);
  if (residual) kernels.binary(s, BinaryOp::add, z, view(added, k.shape), z);
  kernels.activation(s, kRelu, 0, z, y);
  if (residual) kernels.accumulate(s, more_dy, sum);
  kernels.activation_backward(s, kRelu, 0, {}, y, sum, masked);
  kernels.batch_norm_backward(s, x, w, m, v, gamma, beta, kEpsilon, {}, kNone, masked, {}, dx,
                              dgamma, dbeta, {});
  if (residual) f.dresidual = g;
  return f;
}

TEST(DirectBatchNorm, ReluAndWhatIsAddedChangeNoBit) {
  for (Case& k : cases()) {
    for (const bool residual : {false, true}) {
      const Fused at_once = run_fused(k, residual, true), apart = run_fused(k, residual, false);
      EXPECT_EQ(at_once, apart) << k.shape << residual;
      const auto zeros = std::count(at_once.y.begin(), at_once.y.end(), 0.0f);
      EXPECT_GT(zeros, 0);
      EXPECT_LT(zeros, static_cast<std::ptrdiff_t>(k.x.size()));
    }
  }
}

// The same numbers in blocks of channels: sums are then taken in another order.
TEST(CpuBatchNorm, TakesBlocksOfChannels) {
  struct Blocks final : Layout {
    Blocks(std::size_t size, std::int64_t block) : Layout(size) { channel_block = block; }
  };
  for (const auto& [channels, block] : {std::pair{32, 16}, {16, 8}, {24, 24}, {300, 300}}) {
    for (const bool residual : {false, true}) {
      for (const std::int64_t side : {1, 3, 20}) {
        Case k({4, channels, side, side}, /*dense=*/false);
        const Fused expected = run_fused(k, residual, /*at_once=*/true);
        const Blocks layout(k.x.size() * sizeof(float), block);
        const std::size_t width = static_cast<std::size_t>(block);
        const auto moved = [&](const std::vector<float>& from, bool back) {
          std::vector<float> to(from.size());
          for (std::size_t i = 0; i < from.size(); ++i) {
            const std::size_t p = i % k.pixels, c = i / k.pixels % k.channels;
            const std::size_t b = i / k.pixels / k.channels;
            const std::size_t at =
                ((b * k.channels + c / width * width) * k.pixels) + p * width + c % width;
            back ? to[i] = from[at] : to[at] = from[i];
          }
          return to;
        };
        std::vector<float> x = moved(k.x, false), dy = moved(k.dy, false);
        std::vector<float> added = moved(normals(k.x.size(), 5), false);
        std::vector<float> more = moved(normals(k.x.size(), 6), false);
        std::vector<float> mean(k.channels), variance(k.channels), y(x.size()), dx(x.size());
        std::vector<float> dresidual(x.size()), dgamma(k.channels), dbeta(k.channels);
        const auto blocked = [&](std::vector<float>& v) {
          Tensor t = view(v, k.shape);
          t.layout = &layout;
          return t;
        };
        Stream s;
        Kernels& cpu = kernels(kCpu);
        const Tensor m = k.per_channel(mean), v = k.per_channel(variance);
        const Tensor gamma = k.per_channel(k.gamma), beta = k.per_channel(k.beta);
        cpu.batch_norm_statistics(s, blocked(x), k.weights(), m, v, {});
        cpu.batch_norm(s, blocked(x), m, v, gamma, beta, kEpsilon,
                       residual ? blocked(added) : Tensor{}, Activation::relu, blocked(y));
        cpu.batch_norm_backward(s, blocked(x), k.weights(), m, v, gamma, beta, kEpsilon,
                                residual ? blocked(y) : Tensor{}, Activation::relu, blocked(dy),
                                residual ? blocked(more) : Tensor{}, blocked(dx),
                                k.per_channel(dgamma), k.per_channel(dbeta),
                                residual ? blocked(dresidual) : Tensor{});
        const auto close = [&](const std::vector<float>& actual, const std::vector<float>& wanted,
                               const char* what) {
          expect_close(actual, doubles(wanted), 2e-6, 2e-6, what);
        };
        close(moved(y, true), expected.y, "y");
        close(moved(dx, true), expected.dx, "dx");
        close(dgamma, expected.dgamma, "dgamma");
        close(dbeta, expected.dbeta, "dbeta");
        if (residual) close(moved(dresidual, true), expected.dresidual, "dresidual");
      }
    }
  }
}

// Two virtual ranks' contributions, added up, then the running averages.
TEST(DirectBatchNorm, RunningAveragesFollowTheSums) {
  Stream s;
  std::vector<float> sums(2 * 3 + 1);
  std::vector<double> mean(3, 0.5 * 0.75), variance(3, 2 * 0.75);
  double n = 0;
  for (const std::int64_t records : {4, 7}) {
    Case k({records, 3, 5}, false);
    const std::vector<float> part = run(k).contribution;
    EXPECT_EQ(part[6], static_cast<float>(k.values()));
    for (std::size_t i = 0; i < 7; ++i) sums[i] += part[i];
    n += k.values();
  }
  for (const std::int64_t records : {4, 7}) {
    const Case k({records, 3, 5}, false);
    const Moments m = reference_moments(k, doubles(k.x));
    const double share = k.values() / n;
    for (std::size_t c = 0; c < 3; ++c) {
      mean[c] += 0.25 * share * m.mean[c];
      variance[c] += 0.25 * share * m.variance[c] * k.values() / (k.values() - 1);
    }
  }
  std::vector<float> running_mean(3, 0.5f), running_variance(3, 2.0f);
  kernels_under_test().batch_norm_running(s, view(sums, {7}), 0.25f, view(running_mean, {3}),
                                          view(running_variance, {3}));
  expect_close(running_mean, mean, 3e-7, 1e-8);
  expect_close(running_variance, variance, 3e-7, 0);
}

TEST(DirectBatchNorm, NothingSeenChangesNothing) {
  Stream s;
  Case k({2, 3, 5}, true);
  std::fill(k.weight.begin(), k.weight.end(), 0.0f);
  std::vector<float> sums = run(k).contribution, mean(3, 0.5f), variance(3, 2.0f);
  EXPECT_EQ(sums, std::vector<float>(7, 0.0f));
  kernels_under_test().batch_norm_running(s, view(sums, {7}), 0.25f, view(mean, {3}),
                                          view(variance, {3}));
  EXPECT_EQ(mean, std::vector<float>(3, 0.5f));
  EXPECT_EQ(variance, std::vector<float>(3, 2.0f));
}

TEST(DirectBatchNorm, OneValueHasAFiniteContribution) {
  Stream s;
  Case k({1, 3}, true);
  const std::vector<float> sums = run(k).contribution;
  EXPECT_EQ(sums[6], 1.0f);
  for (const float v : sums) EXPECT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace peal::direct::batch_norm_test
