// cuda_bench's lines of tensors that are stored as bf16: twice the elements in the same bytes.
#pragma once

#include <tuple>

#include "tests/bench/cuda_bench.h"

namespace peal {

class HalvesBench : public BenchBase {
 protected:
  using BenchBase::BenchBase;

  void halves() {
    fill_with_halves();
    pointwise_of_halves();
    rows_of_halves();
    channels_of_halves();
    convolutions_of_halves();
    products_of_halves();
    algorithms();
    attention();
  }

 private:
  static constexpr std::int64_t kHalves = 2 * kLarge;

  // What lies in the large arrays becomes halves of a sensible size.
  void fill_with_halves() {
    const Tensor from = large(0, {kLarge}), to = half(1, {kLarge});
    k_.fill(s_, from, 0.5f);
    for (std::size_t i = 0; i < small_.size(); ++i) k_.fill(s_, small(i, {kLarge / 64}), 0.75f);
    k_.dropout(s_, any_key(), /*site=*/2, 0.5f, from, from);
    k_.make_reorder({kLarge}, {}, {nullptr, DType::bf16})->run(s_, from, to, {});
    for (const std::size_t i : {2, 3, 0})
      for (std::size_t part = 0; part < 2; ++part)
        copy(s_, large_[i].data() + part * to.bytes(), large_[1].data(), to.bytes());
    copy(s_, large_[1].data() + to.bytes(), large_[2].data(), to.bytes());
    s_.synchronize();
  }

  void pointwise_of_halves() {
    const Shape n{kHalves}, one{kLarge};
    const Tensor x = half(0, n), y = half(1, n), z = half(2, n);
    const auto narrow = k_.make_reorder(one, {}, {nullptr, DType::bf16});
    const auto widen = k_.make_reorder(one, {nullptr, DType::bf16}, {});
    const Tensor full = large(3, one), stored = half(2, one);
    line("bf16 scale", n, bytes_of({x, z}), [&] { k_.scale(s_, 0.5f, x, z); });
    line("bf16 binary add", n, bytes_of({x, y, z}), [&] { k_.binary(s_, BinaryOp::add, x, y, z); });
    line("bf16 gelu_tanh", n, bytes_of({x, z}),
         [&] { k_.activation(s_, Activation::gelu_tanh, 0, x, z); });
    line("bf16 gelu_tanh backward", n, bytes_of({x, y, z}),
         [&] { k_.activation_backward(s_, Activation::gelu_tanh, 0, x, {}, y, z); });
    line("bf16 dropout", n, bytes_of({x, z}),
         [&] { k_.dropout(s_, any_key(), /*site=*/1, 0.5f, x, z); });
    line("bf16 from f32", one, bytes_of({full, stored}),
         [&] { narrow->run(s_, full, stored, {}); });
    line("bf16 to f32", one, bytes_of({full, stored}), [&] { widen->run(s_, stored, full, {}); });
  }

  // With the gradient that GPT-2's residual stream has from the block behind, in its place.
  void gradient_of_gpts_norm() {
    const std::int64_t rows = 32768, columns = 768;
    const Shape shape{rows, columns}, row{columns}, column{rows};
    const auto norm = k_.make_layer_norm(rows, columns, 1e-5f, DType::bf16);
    const Buffer scratch = bytes(norm->scratch_bytes());
    const Tensor x = half(0, shape), dy = half(2, shape), dx = half(3, shape);
    for (const Tensor& more : {Tensor{}, dx})
      line(more.empty() ? "bf16 layer_norm backward" : "bf16 layer_norm backward + more", shape,
           bytes_of({x, dy, dx}) + (more.empty() ? 0 : bytes_of({more})), [&] {
             norm->backward(s_, x, small(0, row), small(2, column), small(3, column), dy, more, dx,
                            small(4, row), small(5, row), view(scratch));
           });
  }

  void rows_of_halves() {
    const std::int64_t rows = 131072, columns = 1024;
    const Shape shape{rows, columns};
    const Tensor x = half(0, shape), y = half(1, shape), dy = half(2, shape), dx = half(3, shape);
    line("bf16 reduce_sum rows", shape, bytes_of({x, small(1, {1, columns})}), [&] {
      k_.reduce_sum(s_, x, 1, small(1, {1, columns}));
    });
    for (const std::int64_t of_bias : {768, 2304, 3072}) {  // GPT-2's gradients of biases
      const Tensor gradient = half(0, {32768, of_bias}), sums = small(1, {1, of_bias});
      line("bf16 reduce_sum columns", gradient.shape, bytes_of({gradient, sums}),
           [&] { k_.reduce_sum(s_, gradient, 1, sums); });
    }
    const auto norm = k_.make_layer_norm(rows, columns, 1e-5f, DType::bf16);
    const Buffer scratch = bytes(norm->scratch_bytes());
    const Tensor gamma = small(0, {columns}), beta = small(1, {columns}), mean = small(2, {rows}),
                 variance = small(3, {rows}), dgamma = small(4, {columns}),
                 dbeta = small(5, {columns});
    line("bf16 layer_norm", shape, bytes_of({x, y, mean, variance}),
         [&] { norm->forward(s_, x, gamma, beta, y, mean, variance, view(scratch)); });
    line("bf16 layer_norm backward", shape, bytes_of({x, mean, variance, dy, dx}), [&] {
      norm->backward(s_, x, gamma, mean, variance, dy, {}, dx, dgamma, dbeta, view(scratch));
    });
    line("bf16 layer_norm backward + more", shape, bytes_of({x, mean, variance, dy, y, dx}), [&] {
      norm->backward(s_, x, gamma, mean, variance, dy, y, dx, dgamma, dbeta, view(scratch));
    });
    gradient_of_gpts_norm();
    losses_of_halves();
    const Tensor table = large(2, {50000, columns}), tokens = ids(65536, 50000),
                 words = half(0, {65536, columns});
    line("bf16 embedding", words.shape, bytes_of({words, words, words}),
         [&] { k_.embedding(s_, tokens, table, words); });
    const Buffer room = bytes(Kernels::embedding_scratch_bytes(tokens.numel(), 50000));
    for (const bool adds : {false, true})  // which reads and writes three of four rows
      line(adds ? "bf16 embedding backward + more" : "bf16 embedding backward", words.shape,
           bytes_of({tokens, words, table}) + (adds ? bytes_of({table}) / 2 : 0),
           [&] { k_.embedding_backward(s_, tokens, words, adds, table, view(room)); });
    fill_with_halves();
  }

  // The last is GPT-2's, of 32 records, in place as in a step.
  void losses_of_halves() {
    for (const auto& [of, pitch, in_place] :
         {std::tuple{Shape{16384, 8192}, std::int64_t{8192}, false},
          std::tuple{Shape{2560, 50257}, std::int64_t{50257}, false},
          std::tuple{Shape{2560, 50257}, std::int64_t{50304}, false},
          std::tuple{Shape{32768, 50257}, std::int64_t{50304}, true}}) {
      const Layout* const layout = padded_rows(of, DType::bf16, pitch);
      const Buffer room = bytes(in_place ? static_cast<std::size_t>(2 * of[0] * pitch) : 0);
      if (in_place) k_.fill(s_, at(room, {of[0], pitch}, nullptr, DType::bf16), 0.5f);
      const Tensor logits = in_place ? at(room, of, layout, DType::bf16) : half(0, of, layout),
                   dlogits = in_place ? logits : half(1, of, layout);
      const Tensor labels = ids(of[0], of[1]), weight = small(0, {of[0]}),
                   saved = small(1, {of[0], 2}), loss = small(2, {1}), dloss = small(3, {1});
      line("bf16 softmax_cross_entropy", of, bytes_of({logits}),
           [&] { k_.softmax_cross_entropy(s_, logits, labels, weight, saved, loss); });
      line("bf16 softmax_cross_entropy backward", of, bytes_of({logits, dlogits}), [&] {
        k_.softmax_cross_entropy_backward(s_, logits, saved, labels, weight, dloss, dlogits);
      });
      line("bf16 softmax_cross_entropy with gradient", of, bytes_of({logits, dlogits}), [&] {
        k_.softmax_cross_entropy_with_gradient(s_, logits, labels, weight, dloss, saved, loss,
                                               dlogits);
      });
    }
  }

  // As a convolution with that output leaves it.
  const Layout* layout_of(const Shape& y) const {
    Conv2dSpec spec;
    spec.x = {y[0], 64, y[2], y[3]};
    spec.w = {y[1], 64, 1, 1};
    spec.stored = DType::bf16;
    spec.training = false;
    return k_.make_conv2d(spec)->y_layout();
  }

  // A gradient in two terms, behind relu and what was added.
  void end_of_a_block(const Shape& shape) {
    const Layout* layout = layout_of(shape);
    const Shape channels{shape[1]};
    const Buffer room = bytes(3 * layout_bytes(half(0, shape, layout)));
    const auto more = [&](std::size_t i) {
      Tensor t = half(0, shape, layout);
      t.data = room.data() + i * layout_bytes(t);
      return t;
    };
    const Tensor x = half(0, shape, layout), y = half(1, shape, layout),
                 dy = half(2, shape, layout), dx = half(3, shape, layout),
                 weight = small(4, {shape[0]}), mean = small(0, channels),
                 variance = small(1, channels), gamma = small(2, channels),
                 beta = small(3, channels), dgamma = small(5, channels), dbeta = small(6, channels);
    const Tensor dy_2 = more(0), residual = more(1), dresidual = more(2);
    copy(s_, dy_2.as<std::byte>(), dy.as<std::byte>(), dy.bytes());
    copy(s_, residual.as<std::byte>(), dy.as<std::byte>(), dy.bytes());
    line("bf16 batch_norm_statistics", shape, bytes_of({x}),
         [&] { k_.batch_norm_statistics(s_, x, weight, mean, variance, {}); });
    line("bf16 batch_norm + add + relu", shape, bytes_of({x, residual, y}), [&] {
      k_.batch_norm(s_, x, mean, variance, gamma, beta, 1e-5f, residual, Activation::relu, y);
    });
    line("bf16 batch_norm + relu backward", shape, bytes_of({x, dy, x, dy, dx}), [&] {
      k_.batch_norm_backward(s_, x, weight, mean, variance, gamma, beta, 1e-5f, {},
                             Activation::relu, dy, {}, dx, dgamma, dbeta, {});
    });
    line("bf16 batch_norm + add + relu backward", shape,
         bytes_of({x, dy, dy_2, y, dresidual, x, dresidual, dx}), [&] {
           k_.batch_norm_backward(s_, x, weight, mean, variance, gamma, beta, 1e-5f, y,
                                  Activation::relu, dy, dy_2, dx, dgamma, dbeta, dresidual);
         });
  }

  void channels_of_halves() {
    group("bf16 batch_norm", [&] {
      const Shape shape{128, 256, 64, 64}, channels{256};
      const Layout* layout = layout_of(shape);
      const Tensor x = half(0, shape, layout), y = half(1, shape, layout),
                   dy = half(2, shape, layout), dx = half(3, shape, layout),
                   mean = small(0, channels), variance = small(1, channels),
                   gamma = small(2, channels), beta = small(3, channels), weight = small(4, {128}),
                   dgamma = small(5, channels), dbeta = small(6, channels);
      line("bf16 batch_norm training", shape, bytes_of({x, x, y}), [&] {
        k_.batch_norm_statistics(s_, x, weight, mean, variance, {});
        k_.batch_norm(s_, x, mean, variance, gamma, beta, 1e-5f, {}, Activation::none, y);
      });
      line("bf16 batch_norm_statistics", shape, bytes_of({x}),
           [&] { k_.batch_norm_statistics(s_, x, weight, mean, variance, {}); });
      line("bf16 batch_norm backward", shape, bytes_of({x, dy, dx}), [&] {
        k_.batch_norm_backward(s_, x, weight, mean, variance, gamma, beta, 1e-5f, {},
                               Activation::none, dy, {}, dx, dgamma, dbeta, {});
      });
    });
    for (const Shape& shape : {Shape{128, 64, 112, 112}, Shape{128, 256, 56, 56},
                               Shape{256, 512, 7, 7}, Shape{256, 2048, 7, 7}}) {
      end_of_a_block(shape);
    }
    for (const std::int64_t side : {2, 3}) pooling_of_halves(side);
  }

  // The second is ResNet-50's.
  void pooling_of_halves(std::int64_t side) {
    group("bf16 max_pool2d", [&] {
      Pool2dSpec spec;
      spec.x = side == 2 ? Shape{128, 64, 128, 128} : Shape{128, 64, 112, 112};
      spec.kernel[0] = spec.kernel[1] = side;
      spec.padding[0] = spec.padding[1] = side - 2;
      spec.stored = DType::bf16;
      spec.x_layout = layout_of(spec.x);
      const auto pool = k_.make_pool2d(spec);
      const Buffer saved = bytes(pool->saved_bytes()), scratch = bytes(pool->scratch_bytes());
      const Tensor x = half(0, spec.x, spec.x_layout), y = half(1, spec.y(), pool->y_layout()),
                   dy = half(2, spec.y(), pool->y_layout()), dx = half(3, spec.x, spec.x_layout);
      line("bf16 max_pool2d", spec.x, bytes_of({x, y, view(saved)}),
           [&] { pool->forward(s_, x, y, view(saved), view(scratch)); });
      line("bf16 max_pool2d backward", spec.x, bytes_of({dy, view(saved), dx}),
           [&] { pool->backward(s_, dy, view(saved), dx, view(scratch)); });
    });
  }

  // Of ResNet-50 at 64 pictures; the first with x as data come, the others as a convolution leaves
  // it.
  void convolutions_of_halves() {
    struct Case {
      Shape x, w;
      std::int64_t stride, padding;
    };
    for (const Case& c : {Case{{64, 3, 224, 224}, {64, 3, 7, 7}, 2, 3},
                          Case{{64, 64, 56, 56}, {64, 64, 3, 3}, 1, 1},
                          Case{{64, 256, 56, 56}, {64, 256, 1, 1}, 1, 0},
                          Case{{64, 256, 14, 14}, {256, 256, 3, 3}, 1, 1}}) {
      group("bf16 conv2d", [&] {
        Conv2dSpec spec;
        spec.x = c.x;
        spec.w = c.w;
        spec.stride[0] = spec.stride[1] = c.stride;
        spec.padding[0] = spec.padding[1] = c.padding;
        spec.stored = DType::bf16;
        spec.x_layout = c.x[1] == 3 ? nullptr : layout_of(c.x);
        spec.needs_dx = c.x[1] != 3;
        const auto conv = k_.make_conv2d(spec);
        const Buffer scratch = bytes(conv->scratch_bytes());
        const Shape y_shape = spec.y();
        const Tensor x = half(0, c.x, spec.x_layout),
                     w = at(small_[0], c.w, conv->w_layout(), DType::bf16),
                     y = half(1, y_shape, conv->y_layout()), dx = half(3, c.x, spec.x_layout),
                     dw = small(2, c.w);
        const std::int64_t flops = 2 * y_shape.numel() * c.w[1] * c.w[2] * c.w[3];
        line(
            "bf16 conv2d", c.x, flops, [&] { conv->forward(s_, x, w, {}, y, view(scratch)); },
            true);
        if (spec.needs_dx)
          line(
              "bf16 conv2d backward_data", c.x, flops,
              [&] { conv->backward_data(s_, y, w, dx, view(scratch)); }, true);
        line(
            "bf16 conv2d backward_weights", c.x, flops,
            [&] { conv->backward_weights(s_, x, y, dw, {}, view(scratch)); }, true);
      });
    }
  }

  // A square one, and GPT-2's: of a layer forward and of its weight's gradient, and the logits with
  // rows of an odd length and padded, these with both gradients.
  void products_of_halves() {
    struct Case {
      const char* name;
      MatmulSpec spec;
    };
    const auto forward = [](std::int64_t m, std::int64_t n, std::int64_t k, bool bias) {
      return MatmulSpec{.m = m, .n = n, .k = k, .bias = bias, .result = DType::bf16};
    };
    const auto adding = [&](std::int64_t m, std::int64_t n, std::int64_t k) {
      MatmulSpec spec = forward(m, n, k, true);
      spec.addend = true;
      return spec;
    };
    const auto gelu = [&](bool backward) {
      MatmulSpec spec = forward(16384, 3072, 768, !backward);
      spec.activation = Activation::gelu_tanh;
      spec.keeps_before = !backward;
      spec.slope = spec.transpose_b = backward;
      return spec;
    };
    MatmulSpec logits = forward(2560, 50257, 768, false);
    logits.transpose_b = true;
    MatmulSpec padded = logits;
    padded.n = 50304;
    for (Case c :
         {Case{"bf16 matmul nn", forward(4096, 4096, 4096, false)},
          Case{"bf16 matmul bias", forward(16384, 3072, 768, true)},
          Case{"bf16 matmul bias", forward(16384, 768, 3072, true)},
          Case{"bf16 matmul bias + add", adding(16384, 768, 768)},
          Case{"bf16 matmul bias + add", adding(16384, 768, 3072)},
          Case{"bf16 matmul bias + gelu", gelu(false)},
          Case{"bf16 matmul nt",
               {.m = 16384, .n = 3072, .k = 768, .transpose_b = true, .result = DType::bf16}},
          Case{"bf16 matmul nt * gelu'", gelu(true)},
          Case{"bf16 matmul tn f32", {.m = 768, .n = 3072, .k = 16384, .transpose_a = true}},
          Case{"bf16 matmul logits", logits}, Case{"bf16 matmul logits", padded},
          Case{"bf16 matmul logits dx", forward(2560, 768, 50304, false)},
          Case{"bf16 matmul logits dw", {.m = 50304, .n = 768, .k = 2560, .transpose_a = true}}}) {
      c.spec.operands = DType::bf16;
      group(c.name, [&] {
        const std::int64_t m = c.spec.m, n = c.spec.n, k = c.spec.k;
        const auto product = k_.make_matmul(c.spec);
        const Buffer scratch = bytes(product->scratch_bytes());
        const Tensor a = half(0, {1, m, k}), b = half(1, {1, k, n}),
                     to = at(large_[2], {1, m, n}, nullptr, c.spec.result),
                     addend = c.spec.addend ? half(3, {1, m, n}) : Tensor{},
                     before = c.spec.keeps_before || c.spec.slope ? half(3, {1, m, n}) : Tensor{},
                     bias = c.spec.bias ? small(0, {n}) : Tensor{};
        line(
            c.name, {m, n, k}, 2 * m * n * k,
            [&] {
              product->run(s_, {a, b, to, bias, addend, before}, view(scratch));
            },
            true);
      });
    }
  }

  // GPT-2's products over 32,768 tokens: by the algorithm that cuBLASLt prefers, and by the
  // quickest of its first eight, whose number the line gives.
  void algorithms() {
    constexpr std::int64_t kTokens = 32768, kWidth = 768;
    const auto halves = [&](MatmulSpec spec, DType result = DType::bf16) {
      spec.operands = DType::bf16;
      spec.result = result;
      return spec;
    };
    for (const auto& [in, out] : {std::pair{kWidth, 3 * kWidth}, std::pair{kWidth, kWidth},
                                  std::pair{kWidth, 4 * kWidth}, std::pair{4 * kWidth, kWidth}}) {
      quickest("bf16 gpt2 y", halves({.m = kTokens, .n = out, .k = in, .bias = true}));
      quickest("bf16 gpt2 dx", halves({.m = kTokens, .n = in, .k = out, .transpose_b = true}));
      quickest("bf16 gpt2 dw",
               halves({.m = in, .n = out, .k = kTokens, .transpose_a = true}, DType::f32));
      quickest(
          "bf16 gpt2 dw + db",
          halves({.m = in, .n = out, .k = kTokens, .transpose_a = true, .sums = OperandSums::b},
                 DType::f32));
    }
  }

  void quickest(const char* name, MatmulSpec spec) {
    if (std::string(name).find(only_) == std::string::npos) return;
    group(name, [&] {
      const auto [m, n, k] = std::array{spec.m, spec.n, spec.k};
      const Matmul::Operands of{.a = half(0, {1, m, k}),
                                .b = half(1, {1, k, n}),
                                .c = at(large_[2], {1, m, n}, nullptr, spec.result),
                                .bias = spec.bias ? small(0, {n}) : Tensor{},
                                .sums = spec.sums == OperandSums::b ? small(1, {n}) : Tensor{}};
      std::unique_ptr<Matmul> best;
      double best_ms = 0;
      int which = 0;
      for (spec.algorithm = 0; spec.algorithm < 8; ++spec.algorithm) {
        std::unique_ptr<Matmul> product;
        try {
          product = k_.make_matmul(spec);
        } catch (const Error&) {
          if (spec.algorithm == 0) throw;
          continue;  // there are fewer of its kind
        }
        const Buffer scratch = bytes(product->scratch_bytes());
        const auto call = [&] { product->run(s_, of, view(scratch)); };
        if (spec.algorithm == 0) line(name, {m, n, k}, 2 * m * n * k, call, true);
        const double ms = clock_.measure(s_, call);
        if (best != nullptr && ms >= best_ms) continue;
        best = std::move(product);
        best_ms = ms;
        which = spec.algorithm;
      }
      const Buffer scratch = bytes(best->scratch_bytes());
      line(
          cat(name, ", algorithm ", which).c_str(), {m, n, k}, 2 * m * n * k,
          [&] { best->run(s_, of, view(scratch)); }, true);
    });
  }

  // Half of the T * T scores are seen; backward has five products of them, forward two.
  void attention() {
    group("bf16 attention", [&] {
      const AttentionSpec spec{
          .batch = 16, .time = 1024, .heads = 12, .width = 768, .stored = DType::bf16};
      const auto kernel = k_.make_attention(spec);
      const Buffer scratch = bytes(kernel->scratch_bytes());
      const Shape shape{spec.batch, spec.time, spec.width};
      const Tensor qkv = half(0, {spec.batch, spec.time, 3 * spec.width}), y = half(1, shape),
                   dy = half(2, shape), dqkv = half(3, qkv.shape),
                   sums = small(0, {spec.batch, spec.heads, spec.time});
      const std::int64_t flops = 2 * spec.batch * spec.time * spec.time * spec.width;
      line(
          "bf16 attention", shape, flops, [&] { kernel->forward(s_, qkv, y, sums, view(scratch)); },
          true);
      line(
          "bf16 attention backward", shape, flops * 5 / 2,
          [&] { kernel->backward(s_, qkv, y, sums, dy, dqkv, view(scratch)); }, true);
    });
  }
};

}  // namespace peal
