// layer_norm's backward that adds to what is there of a gradient (LayerNorm, more_dx): of f32 the
// bits of two calls, of halves a rounding or two from them. Rows of all forms that a device has for
// its kernels, in arrays that are aligned and not.
#include <gtest/gtest.h>

#include "tests/halves.h"
#include "tests/kernels/direct_support.h"

namespace peal::direct {
namespace {

// Numbers of any stored type, from the `skipped`th of an array on.
class Numbers {
 public:
  Numbers(const std::vector<float>& values, DType dtype, std::size_t skipped = 0)
      : dtype_(dtype), skipped_(skipped), floats_(skipped) {
    floats_.insert(floats_.end(), values.begin(), values.end());
    if (dtype != DType::f32) halves_ = narrowed(floats_, dtype);
  }
  Tensor tensor(const Shape& shape) {
    if (dtype_ == DType::f32) return {.data = floats_.data() + skipped_, .shape = shape};
    return {.data = halves_.data() + skipped_, .shape = shape, .dtype = dtype_};
  }
  std::vector<float> values() const {
    const std::vector<float> all = dtype_ == DType::f32 ? floats_ : widened(halves_, dtype_);
    return {all.begin() + static_cast<std::ptrdiff_t>(skipped_), all.end()};
  }

 private:
  DType dtype_;
  std::size_t skipped_;
  std::vector<float> floats_;
  std::vector<std::uint16_t> halves_;
};

struct Gradients {
  std::vector<float> x, gamma, beta;
};

enum class More : std::uint8_t { none, apart, in_place };

struct Norm {
  DType dtype;
  std::int64_t rows, columns;
  std::size_t skipped;  // of dx and what is added to it

  std::size_t size() const { return static_cast<std::size_t>(rows * columns); }
  std::vector<float> added() const { return Numbers(normals(size(), 6), dtype).values(); }

  Gradients backward(LayerNorm& kernel, More more) const {
    Stream s;
    const Shape shape{rows, columns}, row{columns}, column{rows};
    Numbers x(normals(size(), 1, 2), dtype), dy(normals(size(), 2), dtype);
    Numbers addend(added(), dtype, skipped);
    Numbers dx(more == More::in_place ? added() : std::vector<float>(size(), -7), dtype, skipped);
    std::vector<float> gamma = normals(static_cast<std::size_t>(columns), 3),
                       mean = normals(static_cast<std::size_t>(rows), 4, 0.1),
                       variance(mean.size()), dgamma(gamma.size()), dbeta(gamma.size()),
                       pad(kernel.scratch_bytes() / 4 + 2);
    for (std::size_t r = 0; r < mean.size(); ++r)
      variance[r] = 3 + 0.25f * static_cast<float>(r % 7);
    const Tensor to = dx.tensor(shape), from = more == More::in_place ? to
                                               : more == More::apart  ? addend.tensor(shape)
                                                                      : Tensor{};
    kernel.backward(s, x.tensor(shape), view(gamma, row), view(mean, column),
                    view(variance, column), dy.tensor(shape), from, to, view(dgamma, row),
                    view(dbeta, row), view(pad, {static_cast<std::int64_t>(pad.size())}));
    return {dx.values(), dgamma, dbeta};
  }
};

// What rounding to the type does to a number of that size at most.
double rounding(DType dtype, double size) {
  if (dtype == DType::f32) return 0;
  return dtype == DType::bf16 ? std::ldexp(size, -8) : std::ldexp(size, -11) + std::ldexp(1, -25);
}

void check(const Norm& norm) {
  const auto kernel =
      kernels_under_test().make_layer_norm(norm.rows, norm.columns, 1e-5f, norm.dtype);
  const Gradients own = norm.backward(*kernel, More::none),
                  sum = norm.backward(*kernel, More::apart);
  const std::vector<float> added = norm.added();
  for (std::size_t i = 0; i < added.size(); ++i) {
    const float both = own.x[i] + added[i];
    const double off = rounding(norm.dtype, 1.01 * std::fabs(own.x[i])) +
                       rounding(norm.dtype, 1.01 * std::fabs(both));
    ASSERT_NEAR(sum.x[i], both, off) << "element " << i;
  }
  EXPECT_EQ(sum.gamma, own.gamma);
  EXPECT_EQ(sum.beta, own.beta);
  if (!kernel->adds_in_place()) return;
  const Gradients in_place = norm.backward(*kernel, More::in_place);
  EXPECT_EQ(in_place.x, sum.x);
  EXPECT_EQ(in_place.gamma, own.gamma);
  EXPECT_EQ(in_place.beta, own.beta);
}

using Sizes = std::pair<std::int64_t, std::int64_t>;  // rows, columns

void check_all(std::initializer_list<Sizes> sizes) {
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Precision stored = dtype == DType::bf16  ? Precision::bf16
                             : dtype == DType::f16 ? Precision::f16
                                                   : Precision::f32;
    if (!kernels_under_test().has_precision(stored)) continue;
    for (const auto& [rows, columns] : sizes)
      for (const std::size_t skipped : {0, 1}) {
        SCOPED_TRACE(testing::Message()
                     << name_of(dtype) << ' ' << rows << " x " << columns << " from " << skipped);
        check({dtype, rows, columns, skipped});
      }
  }
}

TEST(AddedNorm, IsTheGradientAndWhatWasThere) {
  check_all({{1, 1},
             {5, 3},
             {45, 40},
             {700, 33},
             {700, 132},
             {45, 300},
             {45, 600},
             {45, 768},
             {21, 1001},
             {45, 1536},
             {45, 2048},
             {5, 2056}});
}

TEST(AddedNorm, OfLongRows) {
  check_all({{5, 5000}, {3, 9001}, {3, 20000}, {2, 60004}});
}

}  // namespace
}  // namespace peal::direct
