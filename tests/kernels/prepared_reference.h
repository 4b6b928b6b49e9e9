// Plain double-precision forms of the prepared kernels, finite differences of them, and buffers.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <vector>

#include "core/base/random.h"
#include "core/device/buffer.h"
#include "tests/kernels/mirrored_kernels.h"

namespace peal::reference {

using Vector = std::vector<double>;

// A tensor that owns its memory, followed by a guard that a kernel must leave alone.
class Owned {
 public:
  explicit Owned(const Shape& shape, const Layout* layout = nullptr);
  static Owned of(const Shape& shape, const Vector& values);
  static Owned bytes(std::size_t bytes);  // saved and scratch; filled with a pattern

  operator Tensor() const { return tensor_; }  // NOLINT: stands for its tensor
  const Tensor& tensor() const { return tensor_; }
  Vector values() const;            // row-major only
  std::vector<float> bits() const;  // as they lie in memory
  bool guard_intact() const;

 private:
  Tensor tensor_;
  std::size_t size_ = 0;
  Buffer buffer_;
};

// Values that f32 holds exactly, in [-1, 1].
Vector random_values(const Shape& shape, std::uint64_t seed);

Vector conv2d(const Conv2dSpec& spec, const Vector& x, const Vector& w, const Vector& b);
// Its gradients without groups and activation, by their definitions.
Vector conv2d_dx(const Conv2dSpec& spec, const Vector& w, const Vector& dy);
struct WeightGradient {
  Vector dw, db;
};
WeightGradient conv2d_dw(const Conv2dSpec& spec, const Vector& x, const Vector& dy);
Vector pool2d(const Pool2dSpec& spec, const Vector& x);
Vector matmul(const MatmulSpec& spec, const Vector& a, const Vector& b, const Vector& bias,
              const Vector& addend = {});
Vector softmax(std::int64_t rows, std::int64_t columns, bool log, const Vector& x);
Vector layer_norm(std::int64_t rows, std::int64_t columns, double epsilon, const Vector& x,
                  const Vector& gamma, const Vector& beta);
// As kernels.h has it: qkv (B, T, 3*C) -> (B, T, C).
Vector attention(const AttentionSpec& spec, const Vector& qkv);

// d sum(f(x) * dy) / dx by central differences, in double.
Vector gradient(const std::function<Vector(const Vector&)>& f, Vector x, const Vector& dy,
                double step = 1e-5);

// |actual - expected| <= tolerance * (1 + |expected|) everywhere.
void expect_close(const Vector& actual, const Vector& expected, double tolerance, const char* what);

// |actual - expected| <= tolerance * (m + |expected|), m the largest of |expected|: for sums of
// many terms, which cancel.
void expect_near_largest(Vector actual, Vector expected, double tolerance, const char* what);

// Each to the nearest number of 8 significant bits (bf16), the even one on a tie.
Vector rounded_to_bf16(Vector values);
// Whether this CPU multiplies bf16. Where it does not, its instructions tell why.
bool cpu_multiplies_bf16();
// Whether it has AVX2, and DNNL_MAX_CPU_ISA does not hold it to less.
bool cpu_has_avx2();

// The copy of a row-major tensor in a layout of `by`, and back.
Owned to_layout(const Tensor& x, const Layout* layout, Kernels& by = kernels_under_test());
Vector from_layout(const Owned& x, Kernels& by = kernels_under_test());

}  // namespace peal::reference
