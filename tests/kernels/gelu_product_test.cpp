// Products that end in gelu_tanh, with what it gets or without, and gradients that come through it,
// against loops in f64.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "tests/kernels/product_operands.h"

namespace peal::direct {
namespace {

enum class Kind : std::uint8_t { plain, keeps_before, slope };

const double kFactor = std::sqrt(2 / std::numbers::pi);

struct Gelu {
  explicit Gelu(double x)
      : tanh(std::tanh(kFactor * (x + 0.044715 * x * x * x))),
        inner_slope(kFactor * (1 + 3 * 0.044715 * x * x)),
        value(0.5 * x * (1 + tanh)),
        slope(0.5 * (1 + tanh) + 0.5 * x * (1 - tanh * tanh) * inner_slope) {}
  double tanh, inner_slope, value, slope;
};

// What a result may be off by: half of the distance of neighbours, and what a tanh may be.
struct Bounds {
  explicit Bounds(DType type)
      : unit(type == DType::f32    ? 0x1p-24
             : type == DType::bf16 ? 0x1p-8
                                   : 0x1p-11),
        tanh(type == DType::f32 ? 3e-7 : 0x1p-10) {}
  // Of a sum of k products of normal draws in f32, and of it as it is stored.
  static double sum(const MatmulSpec& spec, double value) {
    return 2e-6 * std::sqrt(static_cast<double>(spec.k)) * (1 + std::abs(value));
  }
  double stored(const MatmulSpec& spec, double value) const {
    return sum(spec, value) + 1.02 * unit * std::abs(value);
  }
  // Behind the tanh all is 1 or -1 where |x| is large.
  double of_slope(double x) const {
    return tanh * (0.5 + (std::abs(x) < 4 ? std::abs(x) * Gelu(x).inner_slope : 0));
  }
  double unit, tanh;
};

class GeluProduct {
 public:
  GeluProduct(const MatmulSpec& spec, Kind kind) : spec_(spec), kind_(kind) {
    spec_.activation = Activation::gelu_tanh;
    spec_.keeps_before = kind == Kind::keeps_before;
    spec_.slope = kind == Kind::slope;
    const auto kernel = kernels_under_test().make_matmul(spec_);
    std::vector<float> scratch(kernel->scratch_bytes() / 4 + 64);
    Stream s;
    kernel->run(s,
                {.a = a_.tensor({spec_.batch, spec_.m, spec_.k}),
                 .b = b_.tensor({spec_.batch, spec_.k, spec_.n}),
                 .c = c_.tensor(result()),
                 .bias = spec_.bias ? view(bias_.floats, {spec_.n}) : Tensor{},
                 .addend = spec_.addend ? addend_.tensor(result()) : Tensor{},
                 .before = kind == Kind::plain ? Tensor{} : before_.tensor(result())},
                view(scratch, {static_cast<std::int64_t>(scratch.size())}));
  }

  void check() {
    const Bounds bounds(spec_.result);
    const std::vector<float> c = c_.values(), before = before_.values();
    for (std::size_t i = 0; i < c.size(); ++i) {
      const double sum = exact(static_cast<std::int64_t>(i));
      if (kind_ == Kind::slope) {
        const double slope = Gelu(before[i]).slope;
        ASSERT_NEAR(c[i], sum * slope,
                    std::abs(slope) * bounds.stored(spec_, sum) +
                        std::abs(sum) * bounds.of_slope(before[i]) +
                        bounds.unit * std::abs(sum * slope) + 1e-6)
            << "element " << i;
        continue;
      }
      if (kind_ == Kind::keeps_before) {
        ASSERT_NEAR(before[i], sum, bounds.stored(spec_, sum)) << "before " << i;
      }
      const Gelu gelu(sum);
      ASSERT_NEAR(c[i], gelu.value,
                  1.13 * bounds.stored(spec_, sum) + 0.5 * std::abs(sum) * bounds.tanh +
                      bounds.unit * std::abs(gelu.value) + 1e-6)
          << "element " << i;
    }
  }

 private:
  Shape result() const { return {spec_.batch, spec_.m, spec_.n}; }

  double exact(std::int64_t i) const {
    const auto [m, n, k] = std::array{spec_.m, spec_.n, spec_.k};
    const std::int64_t batch = i / (m * n), row = i / n % m, column = i % n;
    double sum =
        spec_.bias ? static_cast<double>(bias_.floats[static_cast<std::size_t>(column)]) : 0;
    if (spec_.addend) sum += static_cast<double>(addend_.floats[static_cast<std::size_t>(i)]);
    for (std::int64_t j = 0; j < k; ++j) {
      const auto ia = batch * m * k + (spec_.transpose_a ? j * m + row : row * k + j);
      const auto ib = batch * k * n + (spec_.transpose_b ? column * k + j : j * n + column);
      sum += static_cast<double>(a_.floats[static_cast<std::size_t>(ia)]) *
             static_cast<double>(b_.floats[static_cast<std::size_t>(ib)]);
    }
    return sum;
  }

  MatmulSpec spec_;
  Kind kind_;
  StoredValues a_{spec_.batch * spec_.m * spec_.k, spec_.operands, 1};
  StoredValues b_{spec_.batch * spec_.k * spec_.n, spec_.operands, 2};
  StoredValues bias_{spec_.n, spec_.result, 3};  // f32 that a device may round to the result's type
  StoredValues addend_{spec_.batch * spec_.m * spec_.n, spec_.result, 4};
  StoredValues before_{spec_.batch * spec_.m * spec_.n, spec_.result, 5};
  StoredValues c_{spec_.batch * spec_.m * spec_.n, spec_.result, 6};
};

class GeluProducts : public testing::TestWithParam<DType> {};

TEST_P(GeluProducts, InEveryForm) {
  // Rows that begin at 16 bytes and ones that do not; one row; a sum of nothing.
  for (const MatmulSpec& shape :
       {MatmulSpec{.batch = 2, .m = 48, .n = 40, .k = 72}, MatmulSpec{.m = 48, .n = 64, .k = 24},
        MatmulSpec{.m = 33, .n = 41, .k = 70}, MatmulSpec{.m = 1, .n = 40, .k = 16},
        MatmulSpec{.m = 5, .n = 8, .k = 0}}) {
    for (int form = 0; form < 48; ++form) {
      const Kind kind = static_cast<Kind>(form / 16);
      MatmulSpec spec = shape;
      spec.transpose_a = (form & 1) != 0;
      spec.transpose_b = (form & 2) != 0;
      spec.bias = (form & 4) != 0;
      spec.addend = (form & 8) != 0;
      spec.operands = spec.result = GetParam();
      if (kind == Kind::slope && (spec.bias || spec.addend)) continue;
      SCOPED_TRACE(testing::Message() << "m " << shape.m << " form " << form);
      GeluProduct(spec, kind).check();
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Types, GeluProducts, testing::ValuesIn(multiplied_types()),
                         [](const auto& of) { return std::string(name_of(of.param)); });

}  // namespace
}  // namespace peal::direct
