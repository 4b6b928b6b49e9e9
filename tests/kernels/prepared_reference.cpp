#include "tests/kernels/prepared_reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

namespace peal::reference {
namespace {

constexpr std::size_t kGuard = 256;
constexpr int kPattern = 0xA5;

// The index of (i, j, k, l) in a row-major tensor of rank 4.
std::size_t at(const Shape& s, std::int64_t i, std::int64_t j, std::int64_t k, std::int64_t l) {
  return static_cast<std::size_t>(((i * s[1] + j) * s[2] + k) * s[3] + l);
}

bool inside(const Shape& s, std::int64_t row, std::int64_t column) {
  return row >= 0 && row < s[2] && column >= 0 && column < s[3];
}

double conv_at(const Conv2dSpec& spec, const Vector& x, const Vector& w, std::int64_t n,
               std::int64_t o, std::int64_t row, std::int64_t column) {
  const std::int64_t group = o / (spec.w[0] / spec.groups);
  double sum = 0;
  for (std::int64_t c = 0; c < spec.w[1]; ++c) {
    for (std::int64_t kh = 0; kh < spec.w[2]; ++kh) {
      for (std::int64_t kw = 0; kw < spec.w[3]; ++kw) {
        const auto r = row * spec.stride[0] - spec.padding[0] + kh * spec.dilation[0];
        const auto q = column * spec.stride[1] - spec.padding[1] + kw * spec.dilation[1];
        if (!inside(spec.x, r, q)) continue;
        sum += x[at(spec.x, n, group * spec.w[1] + c, r, q)] * w[at(spec.w, o, c, kh, kw)];
      }
    }
  }
  return sum;
}

double pool_at(const Pool2dSpec& spec, const Vector& x, std::int64_t n, std::int64_t c,
               std::int64_t row, std::int64_t column) {
  double sum = 0, largest = -std::numeric_limits<double>::infinity();
  std::int64_t count = 0;
  for (std::int64_t kh = 0; kh < spec.kernel[0]; ++kh) {
    for (std::int64_t kw = 0; kw < spec.kernel[1]; ++kw) {
      const auto r = row * spec.stride[0] - spec.padding[0] + kh;
      const auto q = column * spec.stride[1] - spec.padding[1] + kw;
      if (!inside(spec.x, r, q)) continue;
      ++count;
      sum += x[at(spec.x, n, c, r, q)];
      largest = std::max(largest, x[at(spec.x, n, c, r, q)]);
    }
  }
  if (spec.kind == PoolKind::max) return largest;
  return sum / static_cast<double>(spec.include_padding ? spec.kernel[0] * spec.kernel[1] : count);
}

std::size_t offset(const Shape& s, std::int64_t i, std::int64_t j, std::int64_t k, std::int64_t l) {
  return static_cast<std::size_t>(((i * s[1] + j) * s[2] + k) * s[3] + l);
}

// f(i, j, k, l) in row-major order.
template <typename F>
void for_each_index(const Shape& s, const F& f) {
  for (std::int64_t i = 0; i < s[0]; ++i) {
    for (std::int64_t j = 0; j < s[1]; ++j) {
      for (std::int64_t k = 0; k < s[2]; ++k) {
        for (std::int64_t l = 0; l < s[3]; ++l) f(i, j, k, l);
      }
    }
  }
}

Vector map_pixels(
    const Shape& y,
    const std::function<double(std::int64_t, std::int64_t, std::int64_t, std::int64_t)>& value) {
  Vector out;
  out.reserve(static_cast<std::size_t>(y.numel()));
  for (std::int64_t n = 0; n < y[0]; ++n) {
    for (std::int64_t c = 0; c < y[1]; ++c) {
      for (std::int64_t r = 0; r < y[2]; ++r) {
        for (std::int64_t q = 0; q < y[3]; ++q) out.push_back(value(n, c, r, q));
      }
    }
  }
  return out;
}

}  // namespace

Owned::Owned(const Shape& shape, const Layout* layout) {
  tensor_.shape = shape;
  tensor_.layout = layout;
  size_ = layout_bytes(tensor_);
  buffer_ = Buffer(align_up(size_) + kGuard);
  std::memset(buffer_.data(), kPattern, buffer_.size());
  tensor_.data = buffer_.data();
}

Owned Owned::of(const Shape& shape, const Vector& values) {
  Owned owned(shape);
  std::copy(values.begin(), values.end(), owned.tensor_.as<float>());
  return owned;
}

Owned Owned::bytes(std::size_t bytes) {
  return Owned({static_cast<std::int64_t>((bytes + 3) / 4)});
}

Vector Owned::values() const {
  const float* data = tensor_.as<float>();
  return {data, data + tensor_.numel()};
}

std::vector<float> Owned::bits() const {
  const float* data = tensor_.as<float>();
  return {data, data + size_ / sizeof(float)};
}

bool Owned::guard_intact() const {
  return std::all_of(buffer_.data() + size_, buffer_.data() + buffer_.size(),
                     [](std::byte b) { return b == std::byte{kPattern}; });
}

Vector random_values(const Shape& shape, std::uint64_t seed) {
  Vector values(static_cast<std::size_t>(shape.numel()));
  std::uint64_t state = seed * 2862933555777941757u + 3037000493u;
  for (double& value : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    value = static_cast<double>(static_cast<std::int64_t>(state >> 40) - (1 << 23)) / (1 << 23);
  }
  return values;
}

Vector conv2d(const Conv2dSpec& spec, const Vector& x, const Vector& w, const Vector& b) {
  return map_pixels(spec.y(), [&](auto n, auto o, auto r, auto q) {
    const double bias = spec.bias ? b[static_cast<std::size_t>(o)] : 0;
    const double sum = conv_at(spec, x, w, n, o, r, q) + bias;
    return spec.activation == Activation::relu ? std::max(sum, 0.0) : sum;
  });
}

Vector conv2d_dx(const Conv2dSpec& c, const Vector& w, const Vector& dy) {
  Vector dx(static_cast<std::size_t>(c.x.numel()));
  auto dy_at = dy.begin();
  for_each_index(c.y(), [&](std::int64_t n, std::int64_t o, std::int64_t row, std::int64_t column) {
    const double g = *dy_at++;
    for_each_index({1, c.w[1], c.w[2], c.w[3]},
                   [&](std::int64_t, std::int64_t k, std::int64_t kh, std::int64_t kw) {
                     const auto r = row * c.stride[0] - c.padding[0] + kh * c.dilation[0];
                     const auto q = column * c.stride[1] - c.padding[1] + kw * c.dilation[1];
                     if (r < 0 || r >= c.x[2] || q < 0 || q >= c.x[3]) return;
                     dx[offset(c.x, n, k, r, q)] += g * w[offset(c.w, o, k, kh, kw)];
                   });
  });
  return dx;
}

WeightGradient conv2d_dw(const Conv2dSpec& c, const Vector& x, const Vector& dy) {
  const Shape y = c.y();
  WeightGradient sums{Vector(static_cast<std::size_t>(c.w.numel())),
                      Vector(static_cast<std::size_t>(c.w[0]))};
  auto dy_at = dy.begin();
  for_each_index(y, [&](std::int64_t n, std::int64_t o, std::int64_t row, std::int64_t column) {
    const double g = *dy_at++;
    sums.db[static_cast<std::size_t>(o)] += g;
    for_each_index({1, c.w[1], c.w[2], c.w[3]},
                   [&](std::int64_t, std::int64_t k, std::int64_t kh, std::int64_t kw) {
                     const auto r = row * c.stride[0] - c.padding[0] + kh * c.dilation[0];
                     const auto q = column * c.stride[1] - c.padding[1] + kw * c.dilation[1];
                     if (r < 0 || r >= c.x[2] || q < 0 || q >= c.x[3]) return;
                     sums.dw[offset(c.w, o, k, kh, kw)] += g * x[offset(c.x, n, k, r, q)];
                   });
  });
  return sums;
}

Vector pool2d(const Pool2dSpec& spec, const Vector& x) {
  return map_pixels(spec.y(),
                    [&](auto n, auto c, auto r, auto q) { return pool_at(spec, x, n, c, r, q); });
}

Vector matmul(const MatmulSpec& spec, const Vector& a, const Vector& b, const Vector& bias,
              const Vector& addend) {
  Vector c;
  const auto [m, n, k] = std::array{spec.m, spec.n, spec.k};
  for (std::int64_t i = 0; i < spec.batch * m * n; ++i) {
    const std::int64_t batch = i / (m * n), row = i / n % m, column = i % n;
    const std::int64_t b_batch = spec.broadcast_b ? 0 : batch;
    double sum = spec.bias ? bias[static_cast<std::size_t>(column)] : 0;
    if (spec.addend) sum += addend[static_cast<std::size_t>(i)];
    for (std::int64_t j = 0; j < k; ++j) {
      const auto ia = batch * m * k + (spec.transpose_a ? j * m + row : row * k + j);
      const auto ib = b_batch * k * n + (spec.transpose_b ? column * k + j : j * n + column);
      sum += a[static_cast<std::size_t>(ia)] * b[static_cast<std::size_t>(ib)];
    }
    c.push_back(spec.activation == Activation::relu ? std::max(sum, 0.0) : sum);
  }
  return c;
}

Vector softmax(std::int64_t rows, std::int64_t columns, bool log, const Vector& x) {
  Vector y(x.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto begin = x.begin() + r * columns, end = begin + columns;
    const double largest = *std::max_element(begin, end);
    double sum = 0;
    for (auto it = begin; it != end; ++it) sum += std::exp(*it - largest);
    for (std::int64_t c = 0; c < columns; ++c) {
      const double shifted = begin[c] - largest;
      y[static_cast<std::size_t>(r * columns + c)] =
          log ? shifted - std::log(sum) : std::exp(shifted) / sum;
    }
  }
  return y;
}

Vector layer_norm(std::int64_t rows, std::int64_t columns, double epsilon, const Vector& x,
                  const Vector& gamma, const Vector& beta) {
  Vector y(x.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    const double* row = x.data() + r * columns;
    double mean = 0, variance = 0;
    for (std::int64_t c = 0; c < columns; ++c) mean += row[c] / static_cast<double>(columns);
    for (std::int64_t c = 0; c < columns; ++c) {
      variance += (row[c] - mean) * (row[c] - mean) / static_cast<double>(columns);
    }
    for (std::int64_t c = 0; c < columns; ++c) {
      const auto i = static_cast<std::size_t>(c);
      y[static_cast<std::size_t>(r * columns + c)] =
          (row[c] - mean) / std::sqrt(variance + epsilon) * gamma[i] + beta[i];
    }
  }
  return y;
}

Vector attention(const AttentionSpec& spec, const Vector& qkv) {
  const std::int64_t c = spec.width, depth = c / spec.heads;
  Vector y(static_cast<std::size_t>(spec.batch * spec.time * c));
  const auto at = [&](std::int64_t b, std::int64_t t, int part, std::int64_t column) {
    return qkv[static_cast<std::size_t>((b * spec.time + t) * 3 * c + part * c + column)];
  };
  for (std::int64_t i = 0; i < spec.batch * spec.heads * spec.time; ++i) {
    const std::int64_t t = i % spec.time, h = i / spec.time % spec.heads,
                       b = i / spec.time / spec.heads;
    Vector p;
    double sum = 0;
    for (std::int64_t u = 0; u <= t; ++u) {
      double score = 0;
      for (std::int64_t d = 0; d < depth; ++d)
        score += at(b, t, 0, h * depth + d) * at(b, u, 1, h * depth + d);
      p.push_back(std::exp(score / std::sqrt(static_cast<double>(depth))));
      sum += p.back();
    }
    for (std::int64_t u = 0; u <= t; ++u)
      for (std::int64_t d = 0; d < depth; ++d)
        y[static_cast<std::size_t>((b * spec.time + t) * c + h * depth + d)] +=
            p[static_cast<std::size_t>(u)] / sum * at(b, u, 2, h * depth + d);
  }
  return y;
}

Vector gradient(const std::function<Vector(const Vector&)>& f, Vector x, const Vector& dy,
                double step) {
  const auto loss = [&] {
    const Vector y = f(x);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * dy[i];
    return sum;
  };
  Vector dx(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double middle = x[i];
    x[i] = middle + step;
    const double above = loss();
    x[i] = middle - step;
    const double below = loss();
    x[i] = middle;
    dx[i] = (above - below) / (2 * step);
  }
  return dx;
}

void expect_close(const Vector& actual, const Vector& expected, double tolerance,
                  const char* what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  std::size_t wrong = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    if (std::abs(actual[i] - expected[i]) <= tolerance * (1 + std::abs(expected[i]))) continue;
    if (wrong++ < 3) {
      ADD_FAILURE() << what << "[" << i << "] is " << actual[i] << ", expected " << expected[i];
    }
  }
  EXPECT_EQ(wrong, 0u) << what << ": of " << actual.size();
}

Owned to_layout(const Tensor& x, const Layout* layout, Kernels& by) {
  Owned out(x.shape, layout);
  Stream s;
  const auto reorder = by.make_reorder(x.shape, {}, {layout, DType::f32});
  reorder->run(s, x, out, Owned::bytes(reorder->scratch_bytes()));
  return out;
}

Vector from_layout(const Owned& x, Kernels& by) {
  Owned out(x.tensor().shape);
  Stream s;
  const auto reorder = by.make_reorder(x.tensor().shape, {x.tensor().layout, DType::f32}, {});
  reorder->run(s, x, out, Owned::bytes(reorder->scratch_bytes()));
  return out.values();
}

void expect_near_largest(Vector actual, Vector expected, double tolerance, const char* what) {
  double largest = 0;
  for (const double v : expected) largest = std::max(largest, std::abs(v));
  for (double& v : actual) v /= largest;
  for (double& v : expected) v /= largest;
  expect_close(actual, expected, tolerance, what);
}

Vector rounded_to_bf16(Vector values) {
  for (double& value : values) {
    int exponent = 0;
    const double fraction = std::frexp(value, &exponent);
    value = std::ldexp(std::nearbyint(std::ldexp(fraction, 8)), exponent - 8);
  }
  return values;
}

bool cpu_has_avx2() {
  const std::string instructions = onednn_instructions();
  return instructions.starts_with("avx2") || instructions.starts_with("avx512");
}

bool cpu_multiplies_bf16() {
  const bool does = kernels(kCpu).has_precision(Precision::bf16);
  EXPECT_EQ(does, onednn_instructions().starts_with("avx512")) << onednn_instructions();
  return does;
}

}  // namespace peal::reference
