// Products that give the sums of an operand beside them, in each of a device's ways, against loops
// in f64.
#include <gtest/gtest.h>

#include <cmath>

#include "core/base/error.h"
#include "tests/kernels/product_operands.h"

namespace peal::direct {
namespace {

class ProductWithSums {
 public:
  explicit ProductWithSums(const MatmulSpec& spec) : spec_(spec) {
    const auto kernel = kernels_under_test().make_matmul(spec_);
    std::vector<float> scratch(kernel->scratch_bytes() / 4 + 64);
    Stream s;
    kernel->run(s,
                {.a = a_.tensor({1, spec_.m, spec_.k}),
                 .b = b_.tensor({1, spec_.k, spec_.n}),
                 .c = c_.tensor({1, spec_.m, spec_.n}),
                 .sums = sums_.tensor({of_a() ? spec_.m : spec_.n})},
                view(scratch, {static_cast<std::int64_t>(scratch.size())}));
  }

  void check() const {
    check_product();
    check_sums();
  }

 private:
  bool of_a() const { return spec_.sums == OperandSums::a; }
  double a(std::int64_t row, std::int64_t term) const {
    const auto i = spec_.transpose_a ? term * spec_.m + row : row * spec_.k + term;
    return a_.floats[static_cast<std::size_t>(i)];
  }
  double b(std::int64_t term, std::int64_t column) const {
    const auto i = spec_.transpose_b ? column * spec_.k + term : term * spec_.n + column;
    return b_.floats[static_cast<std::size_t>(i)];
  }

  void check_product() const {
    const std::vector<float> c = c_.values();
    const double unit = spec_.result == DType::f32    ? 0
                        : spec_.result == DType::bf16 ? 0x1p-8
                                                      : 0x1p-11;
    for (std::int64_t i = 0; i < spec_.m * spec_.n; ++i) {
      double exact = 0;
      for (std::int64_t term = 0; term < spec_.k; ++term)
        exact += a(i / spec_.n, term) * b(term, i % spec_.n);
      const double sums = 2e-6 * std::sqrt(static_cast<double>(spec_.k)) * (1 + std::abs(exact));
      ASSERT_NEAR(c[static_cast<std::size_t>(i)], exact, sums + 1.02 * unit * std::abs(exact))
          << "element " << i;
    }
  }

  // What was f32 is added up in f64, and halves at worst in f32.
  void check_sums() const {
    for (std::int64_t i = 0; i < (of_a() ? spec_.m : spec_.n); ++i) {
      double exact = 0, magnitudes = 0;
      for (std::int64_t term = 0; term < spec_.k; ++term) {
        const double x = of_a() ? a(i, term) : b(term, i);
        exact += x;
        magnitudes += std::abs(x);
      }
      const double lost = spec_.operands == DType::f32
                              ? 1e-3 * magnitudes
                              : std::sqrt(static_cast<double>(spec_.k)) * magnitudes;
      ASSERT_NEAR(sums_.floats[static_cast<std::size_t>(i)], exact,
                  0x1p-24 * (1.01 * std::abs(exact) + lost))
          << "sum " << i;
    }
  }

  MatmulSpec spec_;
  StoredValues a_{spec_.m * spec_.k, spec_.operands, 1};
  StoredValues b_{spec_.k * spec_.n, spec_.operands, 2};
  StoredValues c_{spec_.m * spec_.n, spec_.result, 3};
  StoredValues sums_{of_a() ? spec_.m : spec_.n, DType::f32, 4};
};

class ProductsWithSums : public testing::TestWithParam<DType> {};

TEST_P(ProductsWithSums, InEveryFormAndWay) {
  // Rows that begin at 16 bytes and ones that do not; one row; sums of nothing.
  for (const MatmulSpec& shape :
       {MatmulSpec{.m = 48, .n = 64, .k = 72}, MatmulSpec{.m = 33, .n = 41, .k = 70},
        MatmulSpec{.m = 1, .n = 40, .k = 16}, MatmulSpec{.m = 5, .n = 8, .k = 0}}) {
    for (int form = 0; form < 16; ++form) {
      MatmulSpec spec = shape;
      spec.transpose_a = (form & 1) != 0;
      spec.transpose_b = (form & 2) != 0;
      spec.sums = (form & 4) != 0 ? OperandSums::a : OperandSums::b;
      spec.operands = GetParam();
      spec.result = (form & 8) != 0 ? GetParam() : DType::f32;
      for (spec.algorithm = 0; spec.algorithm < 8; ++spec.algorithm) {
        SCOPED_TRACE(testing::Message()
                     << "m " << shape.m << " form " << form << " way " << spec.algorithm);
        try {
          ProductWithSums(spec).check();
        } catch (const Error&) {
          ASSERT_GT(spec.algorithm, 0);  // the first is there for all
        }
        if (HasFatalFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, ProductsWithSums, testing::ValuesIn(multiplied_types()),
                         [](const auto& of) { return std::string(name_of(of.param)); });

}  // namespace
}  // namespace peal::direct
