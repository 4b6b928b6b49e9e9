// What the tests of direct kernels share: views over vectors, reference values in f64 and
// gradients by finite differences.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "core/base/random.h"
#include "tests/kernels/mirrored_kernels.h"

namespace peal::direct {

inline std::size_t count(const Shape& shape) {
  return static_cast<std::size_t>(shape.numel());
}

inline Tensor view(std::vector<float>& values, const Shape& shape) {
  return {.data = values.data(), .shape = shape};
}
inline Tensor view(std::vector<std::int32_t>& values, const Shape& shape) {
  return {.data = values.data(), .shape = shape, .dtype = DType::i32};
}

// The key as it lies in memory.
struct Draws {
  explicit Draws(const RandomKey& key) : values(key.draws()) {}
  Tensor tensor() { return {.data = &values, .shape = {2}, .dtype = DType::i64}; }
  DrawKey values;
};

// Normally distributed around `mean`.
inline std::vector<float> normals(std::size_t n, std::uint64_t seed, double deviation = 1,
                                  double mean = 0) {
  const Random random({.seed = seed});
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    values[i] = static_cast<float>(mean + deviation * random.normal(i));
  }
  return values;
}

// embedding_backward, and a second time to numbers that are there: these and what the first gave.
inline void check_embedding_backward(Stream& s, const Tensor& ids, const Tensor& dy,
                                     Tensor dtable) {
  Kernels& k = kernels_under_test();
  std::vector<float> pad(Kernels::embedding_scratch_bytes(ids.numel(), dtable.shape[0]) /
                         sizeof(float));
  const Tensor scratch = view(pad, {static_cast<std::int64_t>(pad.size())});
  k.embedding_backward(s, ids, dy, /*adds=*/false, dtable, scratch);
  const std::vector<float> there = normals(count(dtable.shape), 77);
  std::vector<float> all = there;
  k.embedding_backward(s, ids, dy, /*adds=*/true, view(all, dtable.shape), scratch);
  for (std::size_t i = 0; i < all.size(); ++i)
    ASSERT_EQ(all[i], there[i] + dtable.as<float>()[i]) << "element " << i;
}

inline std::vector<double> doubles(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// |actual - expected| <= relative * |expected| + absolute for each element.
inline void expect_close(const std::vector<float>& actual, const std::vector<double>& expected,
                         double relative, double absolute, const std::string& what = "") {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i], relative * std::fabs(expected[i]) + absolute)
        << what << " element " << i;
  }
}

// d f / d x[i] for each i, by central differences in f64.
inline std::vector<double> numeric_gradient(
    const std::function<double(const std::vector<double>&)>& f, std::vector<double> x,
    double step = 1e-5) {
  std::vector<double> gradient(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double at = x[i];
    x[i] = at + step;
    const double above = f(x);
    x[i] = at - step;
    const double below = f(x);
    x[i] = at;
    gradient[i] = (above - below) / (2 * step);
  }
  return gradient;
}

// The index along each axis of row-major element i.
inline std::vector<std::int64_t> index_of(std::int64_t i, const Shape& shape) {
  std::vector<std::int64_t> index(static_cast<std::size_t>(shape.rank()));
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    index[static_cast<std::size_t>(axis)] = i % shape[axis];
    i /= shape[axis];
  }
  return index;
}

// The element at `index`, which may be of a higher rank; dimensions of 1 repeat.
inline std::size_t offset_of(const std::vector<std::int64_t>& index, const Shape& shape) {
  std::int64_t offset = 0;
  const auto skip = index.size() - static_cast<std::size_t>(shape.rank());
  for (int axis = 0; axis < shape.rank(); ++axis) {
    const std::int64_t at = index[skip + static_cast<std::size_t>(axis)];
    offset = offset * shape[axis] + (shape[axis] == 1 ? 0 : at);
  }
  return static_cast<std::size_t>(offset);
}

}  // namespace peal::direct
