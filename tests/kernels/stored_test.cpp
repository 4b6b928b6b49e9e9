// Kernels of tensors that are stored as bf16 or f16 (kernels.h): each result is the f32 kernel's on
// the widened inputs, rounded once. Over every device and type that has them.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>

#include "core/base/error.h"
#include "tests/halves.h"
#include "tests/kernels/direct_support.h"

namespace peal::direct::stored_test {
namespace {

// Normal draws, or what `fill` says; stored: of the type under test, others are f32.
struct Operand {
  Shape shape;
  bool stored = true;
  std::vector<float> fill = {};
};

class Memory {
 public:
  Memory(const Operand& operand, DType stored, std::uint64_t seed)
      : shape_(operand.shape), dtype_(operand.stored ? stored : DType::f32) {
    const std::vector<float> values =
        operand.fill.empty() ? normals(count(shape_), seed) : operand.fill;
    halves_ = narrowed(values, stored);
    floats_ = widened(halves_, stored);
  }
  Tensor tensor(bool as_stored) {
    if (as_stored && dtype_ != DType::f32)
      return {.data = halves_.data(), .shape = shape_, .dtype = dtype_};
    return view(floats_, shape_);
  }
  bool stored() const { return dtype_ != DType::f32; }
  const std::vector<float>& floats() const { return floats_; }
  const std::vector<std::uint16_t>& halves() const { return halves_; }

 private:
  Shape shape_;
  DType dtype_;
  std::vector<float> floats_;
  std::vector<std::uint16_t> halves_;
};

using Call = std::function<void(Stream&, DType, const Tensors& in, const Tensors& out)>;

std::vector<DType> stored_types() {
  std::vector<DType> types;
  for (const Precision precision : {Precision::bf16, Precision::f16})
    if (kernels_under_test().has_precision(precision)) types.push_back(stored_type(precision));
  return types;
}

// Halves in the order of their values, so that neighbours differ by 1.
std::int32_t ordered(std::uint16_t half) {
  return (half & 0x8000) != 0 ? 0x8000 - half : half;
}

// sums: those of the two calls may be taken in another order.
// in_place: the first output is the first input.
// added: the sum of the magnitudes that are added up to an element, where results may be small
// beside that. Tensor cores cut off below the last place of the largest (Fasi et al. 2021), f32
// arithmetic rounds there: each of the two calls may err by 2^-23 of it.
// rounded: f32 outputs that a device may have rounded to the stored type first.
struct Options {
  bool sums = false, in_place = false;
  double added = 0;
  std::vector<std::size_t> rounded = {};
};

void expect_rounded(Memory& of_f32, const Memory& of_stored, DType stored, const Options& options,
                    bool rounded, const std::string& what) {
  const std::vector<float>& expected = of_f32.floats();
  const auto near = [&](float value) {
    return options.sums
               ? static_cast<float>(2e-6 * (1 + std::fabs(value)) + 2 * 0x1p-23 * options.added)
               : 0.0f;
  };
  const auto half_of = [&](float value) { return narrowed({value}, stored)[0]; };
  if (!of_stored.stored()) {
    for (std::size_t i = 0; i < expected.size(); ++i) {
      const float got = of_stored.floats()[i], close = near(expected[i]);
      const auto half = [&](float value) { return widened({half_of(value)}, stored)[0]; };
      if (rounded && got == half(got)) {
        ASSERT_GE(got, half(expected[i] - close)) << what << " element " << i;
        ASSERT_LE(got, half(expected[i] + close)) << what << " element " << i;
      } else {
        ASSERT_NEAR(got, expected[i], close) << what << " element " << i;
      }
    }
    return;
  }
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto got = ordered(of_stored.halves()[i]), nearest = ordered(half_of(expected[i]));
    if (options.sums && std::abs(got - nearest) <= 1) continue;
    const float close = near(expected[i]);
    ASSERT_GE(got, ordered(half_of(expected[i] - close)))
        << what << " element " << i << ", f32 " << expected[i];
    ASSERT_LE(got, ordered(half_of(expected[i] + close)))
        << what << " element " << i << ", f32 " << expected[i];
  }
}

void check(const std::string& name, const std::vector<Operand>& in, const std::vector<Operand>& out,
           const Call& call, Options options = {}) {
  for (const DType type : stored_types()) {
    std::vector<std::vector<Memory>> outputs;
    for (const bool as_stored : {false, true}) {
      std::vector<Memory> inputs;
      std::vector<Memory>& results = outputs.emplace_back();
      std::uint64_t seed = 1;
      for (const Operand& operand : in) inputs.emplace_back(operand, type, seed++);
      for (const Operand& operand : out) results.emplace_back(operand, type, seed++);
      if (options.in_place) results[0] = inputs[0];
      Tensors from, to;
      for (Memory& memory : inputs) from.push_back(memory.tensor(as_stored));
      for (Memory& memory : results) to.push_back(memory.tensor(as_stored));
      if (options.in_place) from[0] = to[0];
      Stream s;
      call(s, as_stored ? type : DType::f32, from, to);
    }
    for (std::size_t i = 0; i < out.size(); ++i)
      expect_rounded(outputs[0][i], outputs[1][i], type, options,
                     std::ranges::count(options.rounded, i) > 0,
                     name + " " + std::string(name_of(type)) + " output " + std::to_string(i));
  }
}

Kernels& k() {
  return kernels_under_test();
}

const std::vector<std::int64_t> kSizes = {1, 7, 8, 64, 2047, 2048, 2049, 5000};

TEST(Stored, Activations) {
  for (const std::int64_t n : kSizes)
    for (const Activation kind :
         {Activation::none, Activation::relu, Activation::leaky_relu, Activation::gelu,
          Activation::sigmoid, Activation::tanh, Activation::gelu_tanh}) {
      const std::string name = "activation " + std::to_string(static_cast<int>(kind));
      const Call forward = [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
        k().activation(s, kind, 0.1f, in[0], out[0]);
      };
      check(name, {{{n}}}, {{{n}}}, forward);
      check(name + " in place", {{{n}}}, {{{n}}}, forward, {.in_place = true});
      check(name + " backward", {{{n}}, {{n}}}, {{{n}}},
            [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
              k().activation_backward(s, kind, 0.1f, in[1], in[1], in[0], out[0]);
            },
            {.in_place = true});
    }
}

TEST(Stored, Pointwise) {
  for (const std::int64_t n : kSizes) {
    check("scale", {{{n}}}, {{{n}}}, [](Stream& s, DType, const Tensors& in, const Tensors& out) {
      k().scale(s, 0.3f, in[0], out[0]);
    });
    check("accumulate", {{{n}}}, {{{n}}},
          [](Stream& s, DType, const Tensors& in, const Tensors& out) {
            k().accumulate(s, in[0], out[0]);
          });
    check("dropout", {{{n}}}, {{{n}}}, [](Stream& s, DType, const Tensors& in, const Tensors& out) {
      k().dropout(s, Draws({.seed = 3}).tensor(), /*site=*/5, 0.3f, in[0], out[0]);
    });
  }
}

TEST(Stored, BinaryBroadcasts) {
  const std::vector<std::pair<Shape, Shape>> pairs = {
      {{5000}, {5000}}, {{3, 2500}, {1, 2500}}, {{3, 2500}, {3, 1}}, {{4, 1, 6}, {4, 5, 6}},
      {{1}, {77}},      {{2, 3, 5}, {5}},       {{64, 33}, {64, 33}}};
  for (const BinaryOp op : {BinaryOp::add, BinaryOp::sub, BinaryOp::mul})
    for (const auto& [x, y] : pairs) {
      Shape z = x.rank() >= y.rank() ? x : y;
      for (int i = 1; i <= z.rank(); ++i)
        z[-i] = std::max(i <= x.rank() ? x[-i] : 1, i <= y.rank() ? y[-i] : 1);
      check("binary " + to_string(x) + to_string(y), {{x}, {y}}, {{z}},
            [op = op](Stream& s, DType, const Tensors& in, const Tensors& out) {
              k().binary(s, op, in[0], in[1], out[0]);
            });
    }
}

TEST(Stored, SumsAndRepeats) {
  const std::vector<std::pair<Shape, Shape>> pairs = {
      {{7, 5000}, {7, 1}},          {{300, 33}, {1, 33}},   {{70, 90}, {1, 1}},
      {{4, 6, 9, 9}, {4, 6, 1, 1}}, {{4, 6, 9}, {1, 6, 1}}, {{1}, {1}}};
  for (const auto& [whole, sum] : pairs) {
    check("reduce_sum " + to_string(whole), {{whole}}, {{sum, false}},
          [](Stream& s, DType, const Tensors& in, const Tensors& out) {
            k().reduce_sum(s, in[0], 0.5f, out[0]);
          },
          {.sums = true});
    check("broadcast " + to_string(whole), {{sum, false}}, {{whole}},
          [](Stream& s, DType, const Tensors& in, const Tensors& out) {
            k().broadcast(s, in[0], 0.3f, out[0]);
          });
  }
}

TEST(Stored, Embedding) {
  std::vector<std::int32_t> ids = {3, 0, 3, 9, 1, 3};
  const Tensor rows = view(ids, {6});
  for (const std::int64_t columns : {1, 33, 768, 3000}) {
    check("embedding", {{{10, columns}, false}}, {{{6, columns}}},
          [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
            k().embedding(s, rows, in[0], out[0]);
          });
    check("embedding backward", {{{6, columns}}}, {{{10, columns}, false}},
          [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
            check_embedding_backward(s, rows, in[0], out[0]);
          });
  }
}

TEST(Stored, SoftmaxCrossEntropy) {
  for (const std::int64_t classes : {2, 10, 333, 9000}) {
    std::vector<std::int32_t> of_rows = {1, 0, 1, static_cast<std::int32_t>(classes - 1), 0, 1};
    const Tensor labels = view(of_rows, {6});
    const Operand weight = {{3}, false, {1.0f, 0.0f, 2.0f}}, dloss = {{1}, false};
    check("softmax_cross_entropy", {{{6, classes}}, weight}, {{{6, 2}, false}, {{1}, false}},
          [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
            k().softmax_cross_entropy(s, in[0], labels, in[1], out[0], out[1]);
          },
          {.sums = true});
    const Operand saved = {{6, 2}, false};
    const auto backward = [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
      k().softmax_cross_entropy_backward(s, in[0], in[1], labels, in[2], in[3], out[0]);
    };
    check("softmax_cross_entropy backward", {{{6, classes}}, saved, weight, dloss},
          {{{6, classes}}}, backward,
          {.sums = classes > 1000, .in_place = true});  // of long rows e^x may be less exact
  }
}

TEST(Stored, LayerNorm) {
  const std::pair<std::int64_t, std::int64_t> shapes[] = {
      {5, 3}, {5, 64}, {45, 40}, {45, 600}, {45, 768}, {45, 2048}, {5, 5000}};
  for (const auto& [rows_of, columns_of] : shapes) {
    const std::int64_t rows = rows_of, columns = columns_of;
    const Operand line = {{columns}, false}, numbers = {{rows}, false};
    const auto pad = [](std::size_t bytes) { return std::vector<float>(bytes / 4 + 64); };
    check("layer_norm", {{{rows, columns}}, line, line}, {{{rows, columns}}, numbers, numbers},
          [&](Stream& s, DType type, const Tensors& in, const Tensors& out) {
            const auto norm = k().make_layer_norm(rows, columns, 1e-5f, type);
            std::vector<float> scratch = pad(norm->scratch_bytes());
            norm->forward(s, in[0], in[1], in[2], out[0], out[1], out[2],
                          view(scratch, {static_cast<std::int64_t>(scratch.size())}));
          },
          {.sums = true});
    std::vector<float> variances(static_cast<std::size_t>(rows));
    for (std::size_t r = 0; r < variances.size(); ++r)
      variances[r] = 0.25f + 0.25f * static_cast<float>(r % 7);
    const Operand variance = {{rows}, false, variances};
    check("layer_norm backward", {{{rows, columns}}, line, numbers, variance, {{rows, columns}}},
          {{{rows, columns}}, line, line},
          [&](Stream& s, DType type, const Tensors& in, const Tensors& out) {
            const auto norm = k().make_layer_norm(rows, columns, 1e-5f, type);
            std::vector<float> scratch = pad(norm->scratch_bytes());
            norm->backward(s, in[0], in[1], in[2], in[3], in[4], {}, out[0], out[1], out[2],
                           view(scratch, {static_cast<std::int64_t>(scratch.size())}));
          },
          {.sums = true, .added = static_cast<double>(rows)});
  }
}

TEST(Stored, BatchNorm) {
  for (const Shape& shape : {Shape{4, 3, 9, 9}, Shape{4, 300}, Shape{3, 5, 70, 70}}) {
    const std::int64_t records = shape[0], channels = shape[1];
    std::vector<float> weights(static_cast<std::size_t>(records), 1.0f);
    weights[1] = 0;
    const Operand x = {shape}, line = {{channels}, false}, weight = {{records}, false, weights};
    const Operand variance = {
        {channels}, false, std::vector<float>(static_cast<std::size_t>(channels), 0.75f)};
    check("batch_norm_statistics", {x, weight}, {line, line},
          [](Stream& s, DType, const Tensors& in, const Tensors& out) {
            k().batch_norm_statistics(s, in[0], in[1], out[0], out[1], {});
          },
          {.sums = true});
    for (const Activation act : {Activation::none, Activation::relu})
      for (const bool adds : {false, true}) {
        check("batch_norm", {x, line, variance, line, line, x}, {x},
              [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
                k().batch_norm(s, in[0], in[1], in[2], in[3], in[4], 1e-5f, adds ? in[5] : Tensor{},
                               act, out[0]);
              });
        check("batch_norm backward", {x, weight, line, variance, line, line, x, x},
              {x, line, line, x},
              [&](Stream& s, DType, const Tensors& in, const Tensors& out) {
                k().batch_norm_backward(s, in[0], in[1], in[2], in[3], in[4], in[5], 1e-5f,
                                        adds ? in[6] : Tensor{}, act, in[7], {}, out[0], out[1],
                                        out[2], adds ? out[3] : Tensor{});
              },
              {.sums = true});
      }
  }
}

// A gradient in two terms gives the bits of their sum as it would be stored.
TEST(Stored, BatchNormOfTwoTerms) {
  std::vector<DType> types = stored_types();
  types.push_back(DType::f32);
  for (const DType type : types)
    for (const Shape& shape : {Shape{4, 3, 9, 9}, Shape{4, 300}, Shape{3, 5, 70, 70}})
      for (const Activation act : {Activation::none, Activation::relu}) {
        const Shape channels{shape[1]}, records{shape[0]};
        std::vector<float> weights(static_cast<std::size_t>(records[0]), 1.0f);
        weights[1] = 0;
        Memory x({shape}, type, 1), y({shape}, type, 2), one({shape}, type, 3),
            two = {{shape}, type, 4};
        Memory sum = one, line({channels, false}, type, 5),
               ones({channels, false,
                     std::vector<float>(static_cast<std::size_t>(channels[0]), 0.75f)},
                    type, 6);
        Memory weight({records, false, weights}, type, 7);
        const bool stored = type != DType::f32;
        std::vector<Memory> results[2];
        Stream s;
        k().accumulate(s, two.tensor(stored), sum.tensor(stored));
        for (const bool apart : {false, true}) {
          std::vector<Memory>& to = results[apart ? 1 : 0];
          for (int i = 0; i < 2; ++i) to.emplace_back(Operand{shape}, type, 8);
          for (int i = 0; i < 2; ++i) to.emplace_back(Operand{channels, false}, type, 8);
          k().batch_norm_backward(s, x.tensor(stored), weight.tensor(false), line.tensor(false),
                                  ones.tensor(false), line.tensor(false), ones.tensor(false), 1e-5f,
                                  y.tensor(stored), act, (apart ? one : sum).tensor(stored),
                                  apart ? two.tensor(stored) : Tensor{}, to[0].tensor(stored),
                                  to[2].tensor(false), to[3].tensor(false), to[1].tensor(stored));
        }
        for (std::size_t i = 0; i < 4; ++i) {
          EXPECT_EQ(results[0][i].floats(), results[1][i].floats()) << name_of(type) << shape << i;
          EXPECT_EQ(results[0][i].halves(), results[1][i].halves()) << name_of(type) << shape << i;
        }
      }
}

TEST(Stored, Attention) {
  for (const AttentionSpec& shape :
       {AttentionSpec{.batch = 2, .time = 5, .heads = 2, .width = 6},
        AttentionSpec{.batch = 1, .time = 150, .heads = 3, .width = 90}}) {
    const std::int64_t b = shape.batch, t = shape.time, c = shape.width;
    check("attention", {{{b, t, 3 * c}}, {{b, t, c}}, {{b, t, c}}},
          {{{b, t, c}}, {{b, shape.heads, t}, false}, {{b, t, 3 * c}}},
          [&](Stream& s, DType type, const Tensors& in, const Tensors& out) {
            AttentionSpec spec = shape;
            spec.stored = type;
            const auto attention = k().make_attention(spec);
            std::vector<float> scratch(attention->scratch_bytes() / 4 + 64);
            const Tensor pad = view(scratch, {static_cast<std::int64_t>(scratch.size())});
            attention->forward(s, in[0], out[0], out[1], pad);
            attention->backward(s, in[0], in[2], out[1], in[1], out[2], pad);
          },
          {.sums = true});
  }
}

TEST(Stored, Pool2d) {
  for (const PoolKind kind : {PoolKind::max, PoolKind::average}) {
    const Pool2dSpec shape = {.kind = kind, .x = {2, 3, 9, 8}, .kernel = {3, 2}};
    check("pool2d", {{shape.x}, {shape.y()}}, {{shape.y()}, {shape.x}},
          [&](Stream& s, DType type, const Tensors& in, const Tensors& out) {
            Pool2dSpec spec = shape;
            spec.stored = type;
            const auto pool = k().make_pool2d(spec);
            std::vector<float> saved(pool->saved_bytes() / 4 + 64),
                scratch(pool->scratch_bytes() / 4 + 64);
            const Tensor kept = view(saved, {static_cast<std::int64_t>(saved.size())});
            const Tensor pad = view(scratch, {static_cast<std::int64_t>(scratch.size())});
            pool->forward(s, in[0], out[0], kept, pad);
            pool->backward(s, in[1], kept, out[1], pad);
          },
          {.sums = true});
  }
}

TEST(Stored, Matmul) {
  // Rows that begin at 16 bytes and ones that do not.
  for (const bool narrow_result : {false, true})
    for (int form = 0; form < 64; ++form) {
      const bool a_turned = (form & 1) != 0, b_turned = (form & 2) != 0, bias = (form & 4) != 0;
      const bool addend = (form & 16) != 0, even = (form & 32) != 0;
      const MatmulSpec shape = {.batch = (form & 8) == 0 ? 1 : 2,
                                .m = even ? 48 : 33,
                                .n = 40,
                                .k = even ? 72 : 70,
                                .transpose_a = a_turned,
                                .transpose_b = b_turned,
                                .bias = bias,
                                .addend = addend};
      // Products of two normal draws are 2 / pi on average.
      check("matmul form " + std::to_string(form),
            {{{shape.batch, shape.m, shape.k}},
             {{shape.batch, shape.k, shape.n}},
             {{40}, false},
             {{shape.batch, shape.m, shape.n}, narrow_result}},
            {{{shape.batch, shape.m, shape.n}, narrow_result}},
            [&](Stream& s, DType type, const Tensors& in, const Tensors& out) {
              MatmulSpec spec = shape;
              spec.operands = type;
              spec.result = narrow_result ? type : DType::f32;
              const auto product = k().make_matmul(spec);
              std::vector<float> scratch(product->scratch_bytes() / 4 + 64);
              product->run(s,
                           {.a = in[0],
                            .b = in[1],
                            .c = out[0],
                            .bias = bias ? in[2] : Tensor{},
                            .addend = addend ? in[3] : Tensor{}},
                           view(scratch, {static_cast<std::int64_t>(scratch.size())}));
            },
            {.sums = true, .added = 0.637 * static_cast<double>(shape.k)});
    }
}

const Conv2dSpec kConvolutions[] = {
    {.x = {2, 3, 9, 8}, .w = {16, 3, 3, 3}, .padding = {1, 1}, .bias = true},
    {.x = {2, 16, 6, 5}, .w = {32, 16, 3, 3}, .stride = {2, 2}, .padding = {1, 1}},
    {.x = {2, 16, 4, 4}, .w = {8, 16, 1, 1}, .bias = true, .activation = Activation::relu}};

// Through the device's layouts: x and dy are brought to them, y and dx back.
void check_conv2d(const Conv2dSpec& shape) {
  const Shape y = shape.y();
  check("conv2d", {{shape.x}, {shape.w}, {{shape.w[0]}, false}, {y}},
        {{y}, {shape.x}, {shape.w, false}, {{shape.w[0]}, false}},
        [&](Stream& s, DType type, const Tensors& in, const Tensors& out) {
          Conv2dSpec spec = shape;
          spec.stored = type;
          if (type == DType::f32) std::fill_n(spec.algorithms, kConvPasses, 0);
          const auto conv = k().make_conv2d(spec);
          const Form rows{nullptr, type}, blocks{conv->y_layout(), type};
          // oneDNN's kernels of some convolutions want what Buffer gives.
          Buffer scratch(conv->scratch_bytes()), room(count(y) * 4 + kAlignment),
              w_room(count(spec.w) * 4);
          const Tensor pad{scratch.data(), {static_cast<std::int64_t>(scratch.size() / 4)}};
          const Tensor laid{room.data(), y, type, kCpu, blocks.layout};
          const Form kernels{conv->w_layout(), type};
          const Tensor w{w_room.data(), spec.w, type, kCpu, kernels.layout};
          k().make_reorder(spec.w, rows, kernels)->run(s, in[1], w, {});
          conv->forward(s, in[0], w, shape.bias ? in[2] : Tensor{}, laid, pad);
          const auto back = k().make_reorder(y, blocks, rows);
          std::vector<float> more(back->scratch_bytes() / 4 + 64);
          back->run(s, laid, out[0], view(more, {static_cast<std::int64_t>(more.size())}));
          k().make_reorder(y, rows, blocks)->run(s, in[3], laid, {});
          conv->backward_data(s, laid, w, out[1], pad);
          conv->backward_weights(s, in[0], laid, out[2], shape.bias ? out[3] : Tensor{}, pad);
        },
        // The gradient of the weights sums over all pixels, y and dx over what a window covers.
        {.sums = true, .added = 0.637 * 144, .rounded = {2}});
}

TEST(Stored, Conv2d) {
  for (const Conv2dSpec& spec : kConvolutions) check_conv2d(spec);
}

bool has_ways(Conv2dSpec spec) {
  try {
    for (const DType type : stored_types()) {
      spec.stored = type;
      k().make_conv2d(spec);
    }
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return false;
  }
  return true;
}

// Of each pass of halves as many ways as somebody might choose from, beside f32's own; a CPU has
// one, whatever is asked of it.
TEST(Stored, Conv2dInEveryWay) {
  for (const Conv2dSpec& plain : kConvolutions) {
    for (int pass = 0; pass < kConvPasses; ++pass) {
      Conv2dSpec spec = plain;
      int& number = spec.algorithms[pass];
      for (number = 1; number < 8 && has_ways(spec); ++number) {
        SCOPED_TRACE(testing::Message() << "pass " << pass << ", way " << number);
        check_conv2d(spec);
      }
    }
  }
}

TEST(Stored, ReorderRounds) {
  for (const DType type : stored_types()) {
    std::vector<float> from = {1.0f, 1.00390625f, 1.01171875f, -3e38f, 1e-40f, 0.1f, -0.0f};
    const std::vector<std::uint16_t> expected = narrowed(from, type);
    std::vector<std::uint16_t> halves(from.size());
    const Shape shape = {static_cast<std::int64_t>(from.size())};
    Stream s;
    const Tensor to{.data = halves.data(), .shape = shape, .dtype = type};
    k().make_reorder(shape, {}, {nullptr, type})->run(s, view(from, shape), to, {});
    EXPECT_EQ(halves, expected);
    std::vector<float> back(from.size());
    k().make_reorder(shape, {nullptr, type}, {})->run(s, to, view(back, shape), {});
    EXPECT_EQ(back, widened(expected, type));
  }
}

}  // namespace
}  // namespace peal::direct::stored_test
