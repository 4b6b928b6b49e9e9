// matmul, softmax and layer_norm against plain loops in double, and their gradients against finite
// differences of those loops.
#include <gtest/gtest.h>

#include "core/base/error.h"
#include "tests/kernels/prepared_reference.h"

namespace peal {
namespace {

using reference::cpu_multiplies_bf16;
using reference::expect_close;
using reference::gradient;
using reference::Owned;
using reference::random_values;
using reference::rounded_to_bf16;
using reference::Vector;

struct MatmulCase {
  const char* name;
  MatmulSpec spec;
};

std::ostream& operator<<(std::ostream& out, const MatmulCase& c) {
  return out << c.name;
}

class MatrixProducts : public testing::TestWithParam<MatmulCase> {};

Shape operand(std::int64_t batch, std::int64_t rows, std::int64_t columns, bool transposed) {
  return transposed ? Shape{batch, columns, rows} : Shape{batch, rows, columns};
}

// `rounds`: whether this product is one that rounds its operands on the CPU.
void check_matmul(const MatmulSpec& spec, bool rounds = false) {
  Stream s;
  const auto product = kernels_under_test().make_matmul(spec);
  const Shape a_shape = operand(spec.batch, spec.m, spec.k, spec.transpose_a);
  const Shape b_shape =
      operand(spec.broadcast_b ? 1 : spec.batch, spec.k, spec.n, spec.transpose_b);
  const Vector a = random_values(a_shape, 1), b = random_values(b_shape, 2),
               bias = random_values({spec.n}, 3),
               addend = random_values({spec.batch, spec.m, spec.n}, 4);
  Owned c({spec.batch, spec.m, spec.n});
  const Owned pad = Owned::bytes(product->scratch_bytes()), bias_in = Owned::of({spec.n}, bias);
  const Owned addend_in = Owned::of({spec.batch, spec.m, spec.n}, addend);
  product->run(s,
               {.a = Owned::of(a_shape, a),
                .b = Owned::of(b_shape, b),
                .c = c,
                .bias = spec.bias ? bias_in.tensor() : Tensor{},
                .addend = spec.addend ? addend_in.tensor() : Tensor{}},
               pad);
  const Vector exact =
      rounds ? reference::matmul(spec, rounded_to_bf16(a), rounded_to_bf16(b), bias, addend)
             : reference::matmul(spec, a, b, bias, addend);
  expect_close(c.values(), exact, 1e-6 + 5e-7 * std::sqrt(static_cast<double>(spec.k)), "c");
  EXPECT_TRUE(c.guard_intact() && pad.guard_intact());
}

TEST_P(MatrixProducts, EveryTransposition) {
  for (int form = 0; form < 32; ++form) {
    MatmulSpec spec = GetParam().spec;
    spec.transpose_a = (form & 1) != 0;
    spec.transpose_b = (form & 2) != 0;
    spec.bias = (form & 4) != 0;
    spec.addend = (form & 16) != 0;
    spec.activation = (form & 8) != 0 ? Activation::relu : Activation::none;
    SCOPED_TRACE(testing::Message() << "form " << form);
    check_matmul(spec);
  }
}

MatmulSpec matmul_spec(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k,
                       bool broadcast_b = false) {
  MatmulSpec spec;
  spec.batch = batch;
  spec.m = m;
  spec.n = n;
  spec.k = k;
  spec.broadcast_b = broadcast_b;
  return spec;
}

INSTANTIATE_TEST_SUITE_P(Shapes, MatrixProducts,
                         testing::Values(MatmulCase{"square", matmul_spec(1, 16, 16, 16)},
                                         MatmulCase{"odd", matmul_spec(1, 7, 13, 5)},
                                         MatmulCase{"one_column", matmul_spec(1, 33, 1, 64)},
                                         MatmulCase{"one_row", matmul_spec(1, 1, 33, 65)},
                                         MatmulCase{"dot", matmul_spec(1, 1, 1, 9)},
                                         MatmulCase{"outer", matmul_spec(1, 9, 11, 1)},
                                         MatmulCase{"dense", matmul_spec(1, 64, 128, 541)},
                                         MatmulCase{"wide", matmul_spec(1, 128, 541, 64)},
                                         MatmulCase{"of_nothing", matmul_spec(2, 5, 6, 0)},
                                         MatmulCase{"one_of_nothing", matmul_spec(1, 5, 6, 0)},
                                         MatmulCase{"without_rows", matmul_spec(1, 0, 6, 4)},
                                         MatmulCase{"batched", matmul_spec(3, 5, 6, 7)},
                                         MatmulCase{"broadcast", matmul_spec(3, 5, 6, 7, true)}),
                         [](const auto& test) { return std::string(test.param.name); });

// Each of those that a device chooses from is as exact.
TEST(MatrixProduct, ByEveryAlgorithm) {
  for (MatmulSpec spec : {matmul_spec(1, 64, 128, 541), matmul_spec(3, 32, 48, 256)}) {
    for (spec.algorithm = 0; spec.algorithm < 8; ++spec.algorithm) {
      SCOPED_TRACE(testing::Message() << "algorithm " << spec.algorithm);
      try {
        check_matmul(spec);
      } catch (const Error&) {
        EXPECT_GT(spec.algorithm, 0);  // the first is there for all
      }
    }
  }
}

// Operands are rounded and nothing else is: the sums are as exact as those of an f32 product.
TEST(CpuRoundedProduct, IsThatOfTheRoundedOperands) {
  if (!cpu_multiplies_bf16()) return;
  for (MatmulSpec spec : {matmul_spec(1, 16, 16, 16), matmul_spec(1, 33, 48, 70),
                          matmul_spec(1, 64, 128, 541), matmul_spec(3, 17, 20, 24)}) {
    for (int form = 0; form < 32; ++form) {
      spec.precision = Precision::bf16;
      spec.transpose_a = (form & 1) != 0;
      spec.transpose_b = (form & 2) != 0;
      spec.bias = (form & 4) != 0;
      spec.addend = (form & 16) != 0;
      spec.activation = (form & 8) != 0 ? Activation::relu : Activation::none;
      SCOPED_TRACE(testing::Message()
                   << spec.m << "x" << spec.n << "x" << spec.k << " form " << form);
      check_matmul(spec, /*rounds=*/true);
    }
  }
}

TEST(CpuRoundedProduct, ThinOnesStayExact) {
  if (!cpu_multiplies_bf16()) return;
  for (MatmulSpec spec :
       {matmul_spec(1, 1, 64, 64), matmul_spec(1, 64, 1, 64), matmul_spec(1, 64, 64, 3)}) {
    spec.precision = Precision::bf16;
    check_matmul(spec);
  }
}

struct Rows {
  std::int64_t rows, columns;
};

class Softmaxes : public testing::TestWithParam<std::tuple<Rows, bool>> {};

TEST_P(Softmaxes, ForwardAndBackward) {
  const auto [size, log] = GetParam();
  Stream s;
  const Shape shape{size.rows, size.columns};
  const auto softmax = kernels_under_test().make_softmax(size.rows, size.columns, log);
  const Vector x = random_values(shape, 1), dy = random_values(shape, 2);
  const auto f = [&, rows = size.rows, columns = size.columns, is_log = log](const Vector& v) {
    return reference::softmax(rows, columns, is_log, v);
  };
  Owned y(shape), dx(shape);
  const Owned pad = Owned::bytes(softmax->scratch_bytes());
  softmax->forward(s, Owned::of(shape, x), y, pad);
  expect_close(y.values(), f(x), 3e-6, "y");
  softmax->backward(s, y, Owned::of(shape, dy), dx, pad);
  expect_close(dx.values(), gradient(f, x, dy), 3e-6, "dx");
  EXPECT_TRUE(y.guard_intact() && dx.guard_intact() && pad.guard_intact());
}

INSTANTIATE_TEST_SUITE_P(Shapes, Softmaxes,
                         testing::Combine(testing::Values(Rows{4, 10}, Rows{3, 17}, Rows{1, 1},
                                                          Rows{2, 64}, Rows{5, 100}),
                                          testing::Bool()));

TEST(Softmaxes, LargeLogitsStayFinite) {
  Stream s;
  const auto softmax = kernels_under_test().make_softmax(1, 3, false);
  Owned y({1, 3});
  softmax->forward(s, Owned::of({1, 3}, {1000, 1000, -1000}), y,
                   Owned::bytes(softmax->scratch_bytes()));
  EXPECT_EQ(y.values(), (Vector{0.5, 0.5, 0}));
}

class LayerNorms : public testing::TestWithParam<Rows> {};

TEST_P(LayerNorms, ForwardAndBackward) {
  const auto [rows, columns] = GetParam();
  Stream s;
  constexpr float kEpsilon = 1e-5f;
  const Shape shape{rows, columns}, row{columns}, column{rows};
  const auto norm = kernels_under_test().make_layer_norm(rows, columns, kEpsilon);
  const Vector x = random_values(shape, 1), gamma = random_values(row, 2),
               beta = random_values(row, 3), dy = random_values(shape, 4);
  const auto f = [&, r = rows, c = columns](const Vector& x_, const Vector& g, const Vector& b) {
    return reference::layer_norm(r, c, kEpsilon, x_, g, b);
  };
  const Owned x_in = Owned::of(shape, x), gamma_in = Owned::of(row, gamma),
              pad = Owned::bytes(norm->scratch_bytes());
  Owned y(shape), mean(column), variance(column), dx(shape), dgamma(row), dbeta(row);
  norm->forward(s, x_in, gamma_in, Owned::of(row, beta), y, mean, variance, pad);
  expect_close(y.values(), f(x, gamma, beta), 1e-5, "y");
  for (std::int64_t r = 0; r < rows; ++r) {
    double sum = 0, squares = 0;
    for (std::int64_t c = 0; c < columns; ++c) sum += x[static_cast<std::size_t>(r * columns + c)];
    const double expected = sum / static_cast<double>(columns);
    for (std::int64_t c = 0; c < columns; ++c) {
      const double d = x[static_cast<std::size_t>(r * columns + c)] - expected;
      squares += d * d;
    }
    EXPECT_NEAR(mean.values()[static_cast<std::size_t>(r)], expected, 1e-6);
    EXPECT_NEAR(variance.values()[static_cast<std::size_t>(r)],
                squares / static_cast<double>(columns), 1e-6);
  }
  norm->backward(s, x_in, gamma_in, mean, variance, Owned::of(shape, dy), {}, dx, dgamma, dbeta,
                 pad);
  const auto of_x = [&](const Vector& v) { return f(v, gamma, beta); };
  const auto of_gamma = [&](const Vector& v) { return f(x, v, beta); };
  const auto of_beta = [&](const Vector& v) { return f(x, gamma, v); };
  expect_close(dx.values(), gradient(of_x, x, dy), 2e-5, "dx");
  expect_close(dgamma.values(), gradient(of_gamma, gamma, dy), 1e-5, "dgamma");
  expect_close(dbeta.values(), gradient(of_beta, beta, dy), 1e-5, "dbeta");
  EXPECT_TRUE(y.guard_intact() && dx.guard_intact() && dgamma.guard_intact() &&
              dbeta.guard_intact() && mean.guard_intact() && variance.guard_intact());
}

INSTANTIATE_TEST_SUITE_P(Shapes, LayerNorms,
                         testing::Values(Rows{4, 16}, Rows{3, 17}, Rows{1, 33}, Rows{7, 64},
                                         Rows{2, 100}));

}  // namespace
}  // namespace peal
