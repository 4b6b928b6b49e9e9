// Kernels of stored halves where a device goes ways of its own, beside stored_test.cpp: layouts in
// which convolutions leave their output, arrays that are not aligned, rows that are padded,
// attention that rounds probabilities. Each against the f32 kernels on the widened inputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/base/error.h"
#include "core/kernels/layout.h"
#include "tests/halves.h"
#include "tests/kernels/direct_support.h"

namespace peal::direct::stored_device_test {
namespace {

// Where they end: the largest relative distance of neighbours.
double unit_of(DType type) {
  return type == DType::bf16 ? 0x1p-7 : 0x1p-10;
}

// The same values in f32 and as halves.
struct Both {
  Both(const Shape& of, DType as, std::uint64_t seed, double deviation = 1)
      : Both(of, as, normals(count(of), seed, deviation)) {}
  Both(const Shape& of, DType as, const std::vector<float>& values)
      : shape(of), type(as), halves(narrowed(values, as)), floats(widened(halves, as)) {}
  Tensor half(const Layout* layout = nullptr) {
    return {.data = halves.data(), .shape = shape, .dtype = type, .layout = layout};
  }
  Tensor full(const Layout* layout = nullptr) {
    return {.data = floats.data(), .shape = shape, .layout = layout};
  }
  Tensor of(DType as, const Layout* layout = nullptr) {
    return as == DType::f32 ? full(layout) : half(layout);
  }
  std::vector<float> stored() const { return widened(halves, type); }

  Shape shape;
  DType type;
  std::vector<std::uint16_t> halves;
  std::vector<float> floats;
};

Kernels& k() {
  return kernels_under_test();
}

// Scratch, or what a kernel saves; nothing where no bytes are wanted.
class Room {
 public:
  explicit Room(std::size_t bytes) : buffer_(bytes) {}
  operator Tensor() const {  // NOLINT: stands for it
    if (buffer_.size() == 0) return {};
    return {buffer_.data(), {static_cast<std::int64_t>(buffer_.size())}, DType::u8};
  }

 private:
  Buffer buffer_;
};

// A copy in memory that is aligned as a plan's is, in a layout.
class Placed {
 public:
  Placed(const Tensor& like, const Layout* layout) : tensor_(like) {
    tensor_.layout = layout;
    buffer_ = Buffer(layout_bytes(tensor_));
    tensor_.data = buffer_.data();
  }
  operator const Tensor&() const { return tensor_; }  // NOLINT: stands for it

 private:
  Tensor tensor_;
  Buffer buffer_;
};

void reorder(const Shape& shape, const Tensor& from, const Tensor& to) {
  const auto kernel = k().make_reorder(shape, {from.layout, from.dtype}, {to.layout, to.dtype});
  Room scratch(kernel->scratch_bytes());
  Stream s;
  kernel->run(s, from, to, scratch);
}

Placed placed(const Tensor& x, const Layout* layout = nullptr) {
  Placed copy(x, layout);
  reorder(x.shape, x, copy);
  return copy;
}

// As a convolution with that output leaves it; nullptr where that is row-major.
const Layout* layout_of(const Shape& y, DType type) {
  Conv2dSpec spec{.x = {y[0], 16, y[2], y[3]}, .w = {y[1], 16, 1, 1}};
  spec.stored = type;
  spec.training = false;
  return k().make_conv2d(spec)->y_layout();
}

void expect_near(const std::vector<float>& actual, const std::vector<float>& expected,
                 double relative, double absolute, const std::string& what) {
  expect_close(actual, doubles(expected), relative, absolute, what);
}

class StoredOnDevice : public testing::TestWithParam<DType> {
 protected:
  const DType type = GetParam();
  const double unit = unit_of(type);
  Stream s;
};

std::vector<DType> types_under_test() {
  std::vector<DType> types;
  for (const Precision precision : {Precision::bf16, Precision::f16})
    if (k().has_precision(precision)) types.push_back(stored_type(precision));
  return types;
}

// A CPU without AVX-512 has kernels for neither, and these tests then are not there.
GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(StoredOnDevice);
INSTANTIATE_TEST_SUITE_P(Types, StoredOnDevice, testing::ValuesIn(types_under_test()),
                         [](const auto& of) { return std::string(name_of(of.param)); });

// ---- Arrays that do not begin at 16 bytes -----------------------------------------------------

TEST_P(StoredOnDevice, UnalignedHasTheBitsOfAligned) {
  constexpr std::int64_t kSize = 1037;
  Both x({kSize + 1}, type, 1), y({kSize + 1}, type, 2), z({kSize + 1}, type, 3);
  const auto at = [&](Both& of, std::int64_t first) {
    return Tensor{.data = of.halves.data() + first, .shape = {kSize}, .dtype = type};
  };
  Both moved = x;
  std::copy(x.halves.begin(), x.halves.end() - 1, moved.halves.begin() + 1);
  for (const Activation kind : {Activation::relu, Activation::gelu_tanh}) {
    k().activation(s, kind, 0, at(x, 0), at(y, 0));
    k().activation(s, kind, 0, at(moved, 1), at(z, 1));
    EXPECT_TRUE(std::equal(y.halves.begin(), y.halves.end() - 1, z.halves.begin() + 1));
  }
  k().dropout(s, Draws({.seed = 1}).tensor(), 0, 0.3f, at(x, 0), at(y, 0));
  k().dropout(s, Draws({.seed = 1}).tensor(), 0, 0.3f, at(moved, 1), at(z, 1));
  EXPECT_TRUE(std::equal(y.halves.begin(), y.halves.end() - 1, z.halves.begin() + 1));
}

TEST_P(StoredOnDevice, SumsDownColumnsDoNotDependOnAlignment) {
  const std::pair<Shape, Shape> shapes[] = {{{300, 34}, {1, 34}},       {{700, 1024}, {1, 1024}},
                                            {{2100, 768}, {1, 768}},  // by blocks of parts
                                            {{9001, 8}, {1, 8}},        {{2, 700, 40}, {2, 1, 40}},
                                            {{30, 5, 24}, {30, 1, 24}}, {{3, 600, 70}, {3, 1, 70}},
                                            {{40, 33}, {1, 33}}};
  for (const auto& [whole, sum] : shapes) {
    Both x(whole, type, 1);
    std::vector<float> expected(count(sum)), got(expected.size()), moved_got(expected.size());
    std::vector<std::uint16_t> moved(x.halves.size() + 1);
    std::copy(x.halves.begin(), x.halves.end(), moved.begin() + 1);
    const Tensor at_one{.data = moved.data() + 1, .shape = whole, .dtype = type};
    k().reduce_sum(s, x.full(), 0.5f, view(expected, sum));
    k().reduce_sum(s, x.half(), 0.5f, view(got, sum));
    k().reduce_sum(s, at_one, 0.5f, view(moved_got, sum));
    expect_near(got, expected, 1e-6, 1e-6, cat("sum of ", whole));
    EXPECT_EQ(got, moved_got) << whole;
  }
}

// ---- Layouts ----------------------------------------------------------------------------------

TEST_P(StoredOnDevice, ReorderTurnsAndRounds) {
  for (const Shape& shape : {Shape{2, 3, 7, 5}, Shape{3, 40, 9, 8}, Shape{1, 20, 33, 1}}) {
    const Layout* layout = layout_of(shape, type);
    std::vector<float> from = normals(count(shape), 1), back(from.size());
    Both turned(shape, type, 2);
    reorder(shape, view(from, shape), turned.half(layout));
    reorder(shape, turned.half(layout), view(back, shape));
    EXPECT_EQ(back, widened(narrowed(from, type), type)) << shape;
    Both rows(shape, type, 3);
    reorder(shape, turned.half(layout), rows.half());
    EXPECT_EQ(rows.halves, narrowed(from, type)) << shape;
  }
}

TEST_P(StoredOnDevice, BatchNormInAConvolutionsLayout) {
  // The last but one has more channels than the device sums at once, where it does so in parts.
  for (const Shape& shape : {Shape{3, 24, 40, 41}, Shape{3, 20, 9, 9}, Shape{3, 8, 2, 2},
                             Shape{3, 4104, 2, 2}, Shape{3, 64, 33, 70}}) {
    const std::string what = to_string(shape);
    const Layout* layout = layout_of(shape, type);
    const Shape line{shape[1]};
    Both x(shape, type, 1), residual(shape, type, 2), dy(shape, type, 3), laid(shape, type, 4),
        laid_residual = laid, laid_dy = laid, laid_y = laid, back = laid;
    reorder(shape, x.half(), laid.half(layout));
    reorder(shape, residual.half(), laid_residual.half(layout));
    reorder(shape, dy.half(), laid_dy.half(layout));
    std::vector<float> weights = {1, 0, 2}, gammas = normals(count(line), 5, 0.5, 1),
                       betas = normals(count(line), 6), means(gammas.size()), variances = means,
                       means_2 = means, variances_2 = means, y(x.floats.size()),
                       sums(2 * count(line) + 1), sums_2 = sums;
    const Tensor weight = view(weights, {3}), gamma = view(gammas, line), beta = view(betas, line),
                 mean = view(means, line), variance = view(variances, line);
    k().batch_norm_statistics(s, x.full(), weight, mean, variance, view(sums, {2 * line[0] + 1}));
    k().batch_norm_statistics(s, laid.half(layout), weight, view(means_2, line),
                              view(variances_2, line), view(sums_2, {2 * line[0] + 1}));
    expect_near(sums_2, sums, 1e-5, 1e-6 * sums.back(), what + " contribution");
    expect_near(means_2, means, 1e-5, 1e-6, what + " mean");
    expect_near(variances_2, variances, 1e-5, 1e-6, what + " variance");
    for (const bool adds : {false, true}) {
      const auto none = [&](const Tensor& t) { return adds ? t : Tensor{}; };
      k().batch_norm(s, x.full(), mean, variance, gamma, beta, 1e-5f, none(residual.full()),
                     Activation::relu, view(y, shape));
      k().batch_norm(s, laid.half(layout), mean, variance, gamma, beta, 1e-5f,
                     none(laid_residual.half(layout)), Activation::relu, laid_y.half(layout));
      reorder(shape, laid_y.half(layout), back.half());
      EXPECT_EQ(back.halves, narrowed(y, type)) << what;

      std::vector<float> dx(y.size()), dresidual(y.size()), dgamma(gammas.size()),
          dbeta = dgamma, dgamma_2 = dgamma, dbeta_2 = dgamma;
      Both laid_dx = laid, laid_dresidual = laid, stored_y(shape, type, y);
      k().batch_norm_backward(s, x.full(), weight, mean, variance, gamma, beta, 1e-5f,
                              none(stored_y.full()), Activation::relu, dy.full(), {},
                              view(dx, shape), view(dgamma, line), view(dbeta, line),
                              none(view(dresidual, shape)));
      k().batch_norm_backward(s, laid.half(layout), weight, mean, variance, gamma, beta, 1e-5f,
                              none(laid_y.half(layout)), Activation::relu, laid_dy.half(layout), {},
                              laid_dx.half(layout), view(dgamma_2, line), view(dbeta_2, line),
                              none(laid_dresidual.half(layout)));
      expect_near(dgamma_2, dgamma, 1e-5, 1e-4, what + " dgamma");
      expect_near(dbeta_2, dbeta, 1e-5, 1e-4, what + " dbeta");
      reorder(shape, laid_dx.half(layout), back.half());
      expect_near(back.stored(), dx, unit, 1e-5, what + " dx");
      if (!adds) continue;
      reorder(shape, laid_dresidual.half(layout), back.half());
      EXPECT_EQ(back.halves, narrowed(dresidual, type)) << what;
    }
  }
}

// relu's and the second term's part in it change no bit of what the calls one by one give.
TEST_P(StoredOnDevice, BatchNormBackwardAtOnceInAConvolutionsLayout) {
  for (const Shape& shape : {Shape{3, 24, 40, 41}, Shape{3, 20, 9, 9}, Shape{3, 256, 5, 5}}) {
    const Layout* layout = layout_of(shape, type);
    const Shape line{shape[1]};
    Both x(shape, type, 1), y(shape, type, 2), dy(shape, type, 3), more(shape, type, 4);
    // Some outputs of relu are so small that they are stored as 0.
    std::vector<float> weights = {1, 0, 2}, means(static_cast<std::size_t>(line[0]), 0.1f),
                       variances(means.size(), 0.8f), gammas(means.size(), 4e-8f),
                       betas(means.size(), 0.0f);
    const Tensor weight = view(weights, {3}), mean = view(means, line),
                 variance = view(variances, line), gamma = view(gammas, line),
                 beta = view(betas, line);
    struct Results {
      std::vector<float> dgamma, dbeta;
      Both dx, g;
    };
    const auto backward = [&](const Tensor& of_y, Activation act, const Tensor& one,
                              const Tensor& two, const Tensor& g) {
      Results r{means, means, x, x};
      const Tensor dresidual = g.empty() ? g : r.g.half(layout);
      k().batch_norm_backward(s, x.half(layout), weight, mean, variance, gamma, beta, 1e-5f, of_y,
                              act, one, two, r.dx.half(layout), view(r.dgamma, line),
                              view(r.dbeta, line), dresidual);
      return r;
    };
    const auto expect_same = [&](const Results& a, const Results& b) {
      EXPECT_EQ(a.dgamma, b.dgamma) << shape;
      EXPECT_EQ(a.dbeta, b.dbeta) << shape;
      EXPECT_EQ(a.dx.halves, b.dx.halves) << shape;
    };
    Both sum = dy, masked = dy;
    k().accumulate(s, more.half(layout), sum.half(layout));
    k().activation_backward(s, Activation::relu, 0, {}, y.half(layout), sum.half(layout),
                            masked.half(layout));
    const Results apart = backward({}, Activation::none, masked.half(layout), {}, {});
    const Results one = backward(y.half(layout), Activation::relu, sum.half(layout), {}, x.half());
    const Results two =
        backward(y.half(layout), Activation::relu, dy.half(layout), more.half(layout), x.half());
    const Results plain =
        backward(y.half(layout), Activation::none, dy.half(layout), more.half(layout), x.half());
    for (const Results* each : {&one, &two}) {
      expect_same(*each, apart);
      EXPECT_EQ(each->g.halves, masked.halves) << shape;
    }
    EXPECT_EQ(plain.g.halves, sum.halves) << shape;

    Both out = x;
    k().batch_norm(s, x.half(layout), mean, variance, gamma, beta, 1e-5f, {}, Activation::relu,
                   out.half(layout));
    k().activation_backward(s, Activation::relu, 0, {}, out.half(layout), dy.half(layout),
                            masked.half(layout));
    expect_same(backward({}, Activation::relu, dy.half(layout), {}, {}),
                backward({}, Activation::none, masked.half(layout), {}, {}));
  }
}

TEST_P(StoredOnDevice, PoolingInAConvolutionsLayout) {
  std::vector<Pool2dSpec> specs(8);
  specs[0] = {.kind = PoolKind::max, .x = {2, 24, 9, 12}, .kernel = {3, 3}, .padding = {1, 1}};
  specs[1] = {.kind = PoolKind::average, .x = {2, 24, 8, 10}};
  specs[2] = {.kind = PoolKind::max, .x = {2, 20, 8, 9}};
  specs[3] = {.kind = PoolKind::max, .x = {1, 8, 20, 40}, .kernel = {17, 19}, .stride = {1, 3}};
  // Windows that share more than a border, lines longer than a block, and far shorter.
  specs[4] = {.kind = PoolKind::max,
              .x = {2, 520, 5, 9},
              .kernel = {3, 3},
              .stride = {1, 1},
              .padding = {1, 1}};
  specs[5] = {.kind = PoolKind::average,
              .x = {2, 8, 71, 3},
              .kernel = {3, 3},
              .padding = {1, 1},
              .include_padding = false};
  specs[6] = {.kind = PoolKind::max, .x = {1, 12, 7, 300}, .kernel = {2, 3}, .stride = {3, 2}};
  specs[7] = {.kind = PoolKind::average, .x = {3, 40, 7, 7}, .kernel = {7, 7}};
  for (Pool2dSpec& spec : specs) {
    const std::string what = cat("x ", spec.x, " kernel ", spec.kernel[0]);
    spec.stored = type;
    Pool2dSpec full = spec, laid = spec;
    full.stored = DType::f32;
    laid.x_layout = layout_of(spec.x, type);
    Both x(spec.x, type, 1), y(spec.y(), type, 2), dy(spec.y(), type, 3), dx(spec.x, type, 4);
    const auto run = [&](const Pool2dSpec& of, const Tensor& x_in, const Tensor& y_out,
                         const Tensor& dy_in, const Tensor& dx_out) {
      const auto kernel = k().make_pool2d(of);
      Room saved(kernel->saved_bytes()), scratch(kernel->scratch_bytes());
      kernel->forward(s, x_in, y_out, saved, scratch);
      kernel->backward(s, dy_in, saved, dx_out, scratch);
    };
    std::vector<float> y_full(count(spec.y())), dx_full(count(spec.x));
    run(full, x.full(), view(y_full, spec.y()), dy.full(), view(dx_full, spec.x));
    const Layout* y_layout = k().make_pool2d(laid)->y_layout();
    Both laid_x = x, laid_y = y, laid_dy = dy, laid_dx = dx;
    reorder(spec.x, x.half(), laid_x.half(laid.x_layout));
    reorder(spec.y(), dy.half(), laid_dy.half(y_layout));
    run(laid, laid_x.half(laid.x_layout), laid_y.half(y_layout), laid_dy.half(y_layout),
        laid_dx.half(laid.x_layout));
    reorder(spec.y(), laid_y.half(y_layout), y.half());
    reorder(spec.x, laid_dx.half(laid.x_layout), dx.half());
    expect_near(y.stored(), y_full, unit, 0, what + " y");
    expect_near(dx.stored(), dx_full, unit, 1e-6, what + " dx");
  }
}

// ---- Convolutions -----------------------------------------------------------------------------

Conv2dSpec conv_spec(const Shape& x, const Shape& w, std::int64_t stride, std::int64_t padding) {
  return {.x = x, .w = w, .stride = {stride, stride}, .padding = {padding, padding}};
}

struct ConvRun {
  Both x, w, dy, y, dx;
  std::vector<float> dw, db;
};

// All passes, stored as `as`, with x in x_layout; x and dy come row-major, y and dx leave so.
void run_conv(Conv2dSpec spec, DType as, const Layout* x_layout, std::vector<float>& bias,
              ConvRun& r) {
  spec.stored = as;
  spec.x_layout = x_layout;
  const auto kernel = k().make_conv2d(spec);
  const Layout* y_layout = kernel->y_layout();
  const Shape line{spec.w[0]};
  const Placed x = placed(r.x.of(as), x_layout), dy = placed(r.dy.of(as), y_layout),
               w = placed(r.w.of(as), kernel->w_layout()), y(r.y.of(as), y_layout),
               dx(r.dx.of(as), x_layout), dw(view(r.dw, spec.w), nullptr),
               db(view(r.db, line), nullptr);
  const Room scratch(kernel->scratch_bytes());
  Stream s;
  kernel->forward(s, x, w, spec.bias ? view(bias, line) : Tensor{}, y, scratch);
  if (spec.needs_dx) kernel->backward_data(s, dy, w, dx, scratch);
  kernel->backward_weights(s, x, dy, dw, spec.bias ? Tensor(db) : Tensor{}, scratch);
  reorder(spec.y(), y, r.y.of(as));
  if (spec.needs_dx) reorder(spec.x, dx, r.dx.of(as));
  reorder(spec.w, dw, view(r.dw, spec.w));
  reorder(line, db, view(r.db, line));
}

// x row-major, and as another convolution leaves it.
TEST_P(StoredOnDevice, ConvolutionOfHalves) {
  std::vector<Conv2dSpec> specs = {conv_spec({2, 64, 14, 14}, {64, 64, 3, 3}, 1, 1),
                                   conv_spec({2, 3, 31, 30}, {32, 3, 7, 7}, 2, 3),
                                   conv_spec({2, 64, 9, 9}, {128, 64, 1, 1}, 2, 0),
                                   conv_spec({2, 20, 9, 8}, {24, 20, 3, 3}, 1, 0),
                                   conv_spec({2, 32, 8, 8}, {32, 16, 3, 3}, 1, 1),
                                   // A network's first, which may be folded.
                                   conv_spec({2, 3, 31, 30}, {32, 3, 7, 7}, 2, 3),
                                   conv_spec({3, 1, 9, 12}, {8, 1, 2, 5}, 2, 0),
                                   conv_spec({2, 4, 12, 9}, {8, 4, 3, 4}, 2, 1)};
  for (std::size_t i = 5; i < specs.size(); ++i) specs[i].needs_dx = false;
  specs[6].bias = true;
  specs[3].bias = true;
  specs[3].activation = Activation::relu;
  specs[4].groups = 2;
  for (const Conv2dSpec& spec : specs) {
    // Few bits, so that nothing but the result is rounded.
    std::vector<float> bias(static_cast<std::size_t>(spec.w[0]));
    for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i % 8) / 8;
    const ConvRun fresh{{spec.x, type, 1},
                        {spec.w, type, 2, 0.125},
                        {spec.y(), type, 3},
                        {spec.y(), type, 4},
                        {spec.x, type, 5},
                        std::vector<float>(count(spec.w)),
                        bias};
    ConvRun full = fresh;
    run_conv(spec, DType::f32, nullptr, bias, full);
    for (const bool laid : {false, true}) {
      const std::string what = cat("x ", spec.x, " weight ", spec.w, laid ? " laid" : "");
      ConvRun half = fresh;
      run_conv(spec, type, laid ? layout_of(spec.x, type) : nullptr, bias, half);
      expect_near(half.y.stored(), full.y.floats, unit, 1e-4, what + " y");
      if (spec.needs_dx) expect_near(half.dx.stored(), full.dx.floats, unit, 1e-4, what + " dx");
      // f32, but a device may have it as a half first.
      expect_near(half.dw, full.dw, unit, 1e-3, what + " dw");
      expect_near(half.db, full.db, 1e-5, 1e-4, what + " db");
    }
  }
}

// ---- Products whose rows are no multiple of 16 bytes ------------------------------------------

TEST_P(StoredOnDevice, ProductsOfOddRows) {
  for (int form = 0; form < 32; ++form) {
    const bool narrow = (form & 4) != 0, bias = (form & 8) != 0, addend = (form & 16) != 0;
    MatmulSpec spec{.batch = bias ? 1 : 2,
                    .m = 259,
                    .n = 301,
                    .k = 277,
                    .transpose_a = (form & 1) != 0,
                    .transpose_b = (form & 2) != 0,
                    .bias = bias,
                    .addend = addend,
                    .activation = bias ? Activation::relu : Activation::none};
    const Shape a_shape =
        spec.transpose_a ? Shape{spec.batch, spec.k, spec.m} : Shape{spec.batch, spec.m, spec.k};
    const Shape b_shape =
        spec.transpose_b ? Shape{spec.batch, spec.n, spec.k} : Shape{spec.batch, spec.k, spec.n};
    const Shape c_shape{spec.batch, spec.m, spec.n};
    // The bias is one that halves hold, as a device may round it to the result's type.
    Both a(a_shape, type, 1), b(b_shape, type, 2), biases({spec.n}, type, 3), c(c_shape, type, 4),
        added(c_shape, type, 5);
    std::vector<float> expected(count(c_shape)), got(expected.size());
    const auto run = [&](DType operands, const Tensor& result) {
      MatmulSpec of = spec;
      of.operands = operands;
      of.result = result.dtype;
      const auto kernel = k().make_matmul(of);
      Room scratch(kernel->scratch_bytes());
      kernel->run(s,
                  {.a = a.of(operands),
                   .b = b.of(operands),
                   .c = result,
                   .bias = bias ? biases.full() : Tensor{},
                   .addend = addend ? added.of(result.dtype) : Tensor{}},
                  scratch);
    };
    run(DType::f32, view(expected, c_shape));
    run(type, narrow ? c.half() : view(got, c_shape));
    if (narrow) got = c.stored();
    expect_near(got, expected, narrow ? unit : 1e-5, 1e-4, cat("form ", form));
  }
}

// ---- Losses over long rows --------------------------------------------------------------------

// Rows that follow each other, odd ones too, and padded ones, behind which NaNs lie.
TEST_P(StoredOnDevice, CrossEntropyOfLongRows) {
  struct Case {
    Shape shape;
    std::int64_t pitch;
    bool aligned;
  };
  for (const auto& [shape, pitch, is_aligned] :
       {Case{{5, 9003}, 9003, true}, Case{{6, 17}, 17, true}, Case{{1, 8193}, 8193, true},
        Case{{4, 8192}, 8192, true}, Case{{3, 1027}, 1027, false}, Case{{5, 9003}, 9024, true},
        Case{{6, 17}, 64, true}, Case{{2, 2051}, 2056, true}}) {
    const std::string what = cat(to_string(shape), " pitch ", pitch);
    const std::int64_t rows = shape[0], columns = shape[1];
    std::vector<std::int32_t> of_rows = {0, 16, 3, static_cast<std::int32_t>(columns - 1), 5, 1};
    std::vector<float> weights(static_cast<std::size_t>(rows), 0.5f),
        dloss = {2}, loss(1), loss_2(1), saved(static_cast<std::size_t>(2 * rows)), saved_2 = saved,
        dx(count(shape));
    if (rows > 2) weights[1] = 0;
    const Tensor labels = view(of_rows, {rows}), weight = view(weights, {rows}),
                 kept = view(saved, {rows, 2}), kept_2 = view(saved_2, {rows, 2});
    std::vector<float> values = normals(count(shape), 1, 3);
    for (std::size_t c = 0; c < 40 && rows > 2 && columns > 40;
         ++c) {  // a mask, where threads begin
      values[2 * static_cast<std::size_t>(columns) + c] = c == 3 ? 1.0f : -INFINITY;
    }
    Both x(shape, type, values);
    const std::size_t behind = is_aligned ? 0 : 1;
    const auto nan = static_cast<std::uint16_t>(0xffff);
    std::vector<std::uint16_t> laid(static_cast<std::size_t>(rows * pitch) + behind, nan);
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(x.halves.begin() + r * columns, columns,
                  laid.begin() + static_cast<std::ptrdiff_t>(behind) + r * pitch);
    }
    const Tensor logits{.data = laid.data() + behind,
                        .shape = shape,
                        .dtype = type,
                        .layout = padded_rows(shape, type, pitch)};
    k().softmax_cross_entropy(s, x.full(), labels, weight, kept, view(loss, {1}));
    k().softmax_cross_entropy(s, logits, labels, weight, kept_2, view(loss_2, {1}));
    expect_near(saved_2, saved, 1e-6, 0, what + " saved");
    expect_near(loss_2, loss, 1e-5, 0, what + " loss");
    k().softmax_cross_entropy_backward(s, x.full(), kept, labels, weight, view(dloss, {1}),
                                       view(dx, shape));
    k().softmax_cross_entropy_backward(s, logits, kept, labels, weight, view(dloss, {1}), logits);
    // Rounded once, but for what a less exact exponential moves over the edge.
    std::vector<float> got = widened(laid, type), expected(laid.size());
    if (behind > 0) got.erase(got.begin());
    expected.resize(got.size());
    for (std::int64_t r = 0; r < rows; ++r) {
      std::copy_n(dx.begin() + r * columns, columns, expected.begin() + r * pitch);
    }
    expect_near(got, expected, 0.51 * unit, type == DType::f16 ? 0x1p-25 : 0, what);
  }
}

TEST_P(StoredOnDevice, PaddedRowsAreCopied) {
  const Shape shape{3, 5, 301};
  Both x(shape, type, 1);
  for (const DType to : {type, DType::f32}) {
    const Layout* layout = padded_rows(shape, to, 320);
    ASSERT_EQ(layout, padded_rows({15, 301}, to, 320));
    Both again(shape, type, 2);
    Room laid(layout->bytes);
    const Tensor rows{.data = Tensor(laid).data, .shape = shape, .dtype = to, .layout = layout};
    reorder(shape, x.half(), rows);
    reorder(shape, rows, again.half());
    EXPECT_EQ(again.halves, x.halves);
    for (std::int64_t r = 0; r < 15; ++r) {
      const auto* gap = static_cast<const std::byte*>(rows.data) +
                        static_cast<std::size_t>(r * 320 + 301) * size_of(to);
      EXPECT_TRUE(
          std::all_of(gap, gap + 19 * size_of(to), [](std::byte b) { return b == std::byte{0}; }));
    }
  }
}

// ---- Attention --------------------------------------------------------------------------------

// Tensor cores take probabilities and their gradients as halves, so that results are no nearer to
// those of f32 than halves are, on average.
TEST_P(StoredOnDevice, AttentionIsNear) {
  for (const AttentionSpec& shape :
       {AttentionSpec{.batch = 2, .time = 130, .heads = 2, .width = 128},
        AttentionSpec{.batch = 1, .time = 64, .heads = 3, .width = 96},
        AttentionSpec{.batch = 1, .time = 77, .heads = 1, .width = 128},
        AttentionSpec{.batch = 2, .time = 33, .heads = 2, .width = 24}}) {
    const std::string what = cat("T ", shape.time, ", H ", shape.heads, ", C ", shape.width);
    const Shape in{shape.batch, shape.time, 3 * shape.width},
        out{shape.batch, shape.time, shape.width}, rows{shape.batch, shape.heads, shape.time};
    Both qkv(in, type, 1), dy(out, type, 2), y(out, type, 3), dqkv(in, type, 4);
    std::vector<float> y_full(count(out)), dqkv_full(count(in)), sums_full(count(rows)),
        sums(count(rows));
    const auto plain = k().make_attention(shape);
    Room plain_scratch(plain->scratch_bytes());
    plain->forward(s, qkv.full(), view(y_full, out), view(sums_full, rows), plain_scratch);
    plain->backward(s, qkv.full(), view(y_full, out), view(sums_full, rows), dy.full(),
                    view(dqkv_full, in), plain_scratch);
    AttentionSpec spec = shape;
    spec.stored = type;
    const auto kernel = k().make_attention(spec);
    Room scratch(kernel->scratch_bytes());
    kernel->forward(s, qkv.half(), y.half(), view(sums, rows), scratch);
    kernel->backward(s, qkv.half(), y.half(), view(sums, rows), dy.half(), dqkv.half(), scratch);
    expect_near(sums, sums_full, 1e-4, 1e-4, what + " log_sums");
    EXPECT_LT(distance(y.stored(), y_full), unit / 2) << what;
    EXPECT_LT(distance(dqkv.stored(), dqkv_full), unit) << what;
    expect_near(y.stored(), y_full, unit, 2 * unit, what + " y");
  }
}

}  // namespace
}  // namespace peal::direct::stored_device_test
