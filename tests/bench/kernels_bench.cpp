// Speed of the prepared kernels at the shapes of the reference CNN, on one thread:
//   ninja -C build kernels_bench && build/kernels_bench
#include <benchmark/benchmark.h>

#include "core/device/buffer.h"
#include "core/kernels/kernels.h"

namespace peal {
namespace {

// A tensor of small positive and negative numbers that owns its memory.
class Owned {
 public:
  explicit Owned(const Shape& shape, const Layout* layout = nullptr) {
    tensor_.shape = shape;
    tensor_.layout = layout;
    buffer_ = Buffer(layout_bytes(tensor_));
    tensor_.data = buffer_.data();
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      tensor_.as<float>()[i] = static_cast<float>((i * 7919) % 1024 - 512) / 512.0f;
    }
  }
  static Owned bytes(std::size_t bytes) {
    return Owned({static_cast<std::int64_t>((bytes + 3) / 4)});
  }
  operator Tensor() const { return tensor_; }  // NOLINT: stands for its tensor

 private:
  Tensor tensor_;
  Buffer buffer_;
};

void count_records(benchmark::State& state, std::int64_t records) {
  state.counters["s/record"] = benchmark::Counter(
      static_cast<double>(records),
      benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void count_flops(benchmark::State& state, std::int64_t flops) {
  state.counters["flop/s"] =
      benchmark::Counter(static_cast<double>(flops), benchmark::Counter::kIsIterationInvariantRate);
}

Conv2dSpec first_conv(std::int64_t records) {
  Conv2dSpec conv;
  conv.x = {records, 1, 28, 28};
  conv.w = {32, 1, 3, 3};
  conv.bias = true;
  conv.activation = Activation::relu;
  conv.needs_dx = false;
  return conv;
}

struct FusedBench {
  explicit FusedBench(std::int64_t records)
      : spec(first_conv(records)), x(spec.x), w(spec.w), b({32}), dw(spec.w), db({32}) {
    pool.x = spec.y();
  }
  Conv2dSpec spec;
  Pool2dSpec pool;
  Owned x, w, b, dw, db;
  Stream s;
};

void conv_relu_pool(benchmark::State& state, bool forward, bool backward) {
  FusedBench f(state.range(0));
  const auto fused = kernels(kCpu).make_conv_relu_pool(f.spec, f.pool);
  if (fused == nullptr) return state.SkipWithError("no fused kernel for this CPU");
  const Owned y(f.pool.y()), dy(f.pool.y()), saved = Owned::bytes(fused->saved_bytes()),
                                             scratch = Owned::bytes(fused->scratch_bytes());
  fused->forward(f.s, f.x, f.w, f.b, y, saved, scratch);
  for (auto _ : state) {
    if (forward) fused->forward(f.s, f.x, f.w, f.b, y, saved, scratch);
    if (backward) fused->backward(f.s, f.x, f.w, y, dy, saved, {}, f.dw, f.db, scratch);
  }
  count_records(state, state.range(0));
}
BENCHMARK_CAPTURE(conv_relu_pool, forward, true, false)
    ->Arg(4)
    ->Arg(16)
    ->Arg(64)
    ->Arg(256)
    ->Arg(512);
BENCHMARK_CAPTURE(conv_relu_pool, both, true, true)->Arg(64)->Arg(256)->Arg(512);

// The same with separate kernels.
void conv_then_pool(benchmark::State& state) {
  FusedBench f(state.range(0));
  f.pool.x = f.spec.y();
  const auto conv = kernels(kCpu).make_conv2d(f.spec);
  f.pool.x_layout = conv->y_layout();
  const auto pool = kernels(kCpu).make_pool2d(f.pool);
  const Owned y(f.pool.x, conv->y_layout()), dy(f.pool.x, conv->y_layout()),
      z(f.pool.y(), pool->y_layout()), dz(f.pool.y(), pool->y_layout()),
      saved = Owned::bytes(pool->saved_bytes()),
      scratch = Owned::bytes(std::max(conv->scratch_bytes(), pool->scratch_bytes()));
  for (auto _ : state) {
    conv->forward(f.s, f.x, f.w, f.b, y, scratch);
    pool->forward(f.s, y, z, saved, scratch);
    pool->backward(f.s, dz, saved, dy, scratch);
    conv->backward_weights(f.s, f.x, dy, f.dw, f.db, scratch);
  }
  count_records(state, state.range(0));
}
BENCHMARK(conv_then_pool)->Arg(64)->Arg(256);

// 32 pictures in blocks of channels between layers of ResNet-18. flop/s counts the multiplications
// of the convolution's definition, of which Winograd's algorithm makes a quarter.
void conv3x3(benchmark::State& state, ConvPass pass) {
  Conv2dSpec first, spec;
  first.x = {32, 16, state.range(1), state.range(1)};
  first.w = {state.range(0), 16, 1, 1};
  const auto before = kernels(kCpu).make_conv2d(first);  // whose layout this one takes
  spec.x = first.y();
  spec.x_layout = before->y_layout();
  spec.w = {state.range(0), state.range(0), 3, 3};
  spec.padding[0] = spec.padding[1] = 1;
  const auto conv = kernels(kCpu).make_conv2d(spec);
  const Owned x(spec.x, spec.x_layout), dx(spec.x, spec.x_layout), w(spec.w), dw(spec.w),
      y(spec.y(), conv->y_layout()), scratch = Owned::bytes(conv->scratch_bytes());
  Stream s;
  for (auto _ : state) {
    if (pass == ConvPass::forward) conv->forward(s, x, w, {}, y, scratch);
    if (pass == ConvPass::backward_data) conv->backward_data(s, y, w, dx, scratch);
    if (pass == ConvPass::backward_weights) conv->backward_weights(s, x, y, dw, {}, scratch);
  }
  count_flops(state, 2 * spec.y().numel() * spec.w[1] * 9);
}
#define PEAL_CONV3X3(pass)                         \
  BENCHMARK_CAPTURE(conv3x3, pass, ConvPass::pass) \
      ->Args({64, 32})                             \
      ->Args({128, 16})                            \
      ->Args({256, 8})                             \
      ->Args({512, 4})
PEAL_CONV3X3(forward);
PEAL_CONV3X3(backward_data);
PEAL_CONV3X3(backward_weights);

constexpr std::int64_t kFeatures = 5408, kHidden = 128;

void matmul(benchmark::State& state, const MatmulSpec& spec) {
  const auto product = kernels(kCpu).make_matmul(spec);
  const Owned a({spec.m, spec.k}), b({spec.k, spec.n}), c({spec.m, spec.n}), bias({spec.n}),
      scratch = Owned::bytes(product->scratch_bytes());
  Stream s;
  for (auto _ : state) {
    product->run(s, {a, b, c, spec.bias ? static_cast<Tensor>(bias) : Tensor{}}, scratch);
  }
  count_flops(state, 2 * spec.m * spec.n * spec.k);
}

// The four products of a layer of GPT-2 124M over 1,024 tokens, and the two of each one's backward
// pass: 43.5 GFLOP. stored: what is read and the activations' side of what is written.
void gpt2_layer(benchmark::State& state, Precision precision, DType stored = DType::f32) {
  constexpr std::int64_t kTokens = 1024, kWidth = 768;
  struct Product {
    std::unique_ptr<Matmul> kernel;
    Owned a, b, c, scratch;
  };
  std::vector<Product> products;
  const auto add = [&](MatmulSpec spec) {
    spec.precision = precision;
    spec.operands = stored;
    spec.result = spec.transpose_a ? DType::f32 : stored;
    auto kernel = kernels(kCpu).make_matmul(spec);
    Owned scratch = Owned::bytes(kernel->scratch_bytes());
    products.push_back({std::move(kernel), Owned({spec.m, spec.k}), Owned({spec.k, spec.n}),
                        Owned({spec.m, spec.n}), std::move(scratch)});
  };
  std::int64_t flops = 0;
  for (const auto& [in, out] : {std::pair{kWidth, 3 * kWidth}, std::pair{kWidth, kWidth},
                                std::pair{kWidth, 4 * kWidth}, std::pair{4 * kWidth, kWidth}}) {
    add({.m = kTokens, .n = out, .k = in});                       // y = x w
    add({.m = in, .n = out, .k = kTokens, .transpose_a = true});  // dw = x^T dy
    add({.m = kTokens, .n = in, .k = out, .transpose_b = true});  // dx = dy w^T
    flops += 3 * 2 * kTokens * in * out;
  }
  Stream s;
  for (auto _ : state) {
    for (Product& p : products) {
      Tensor a = p.a, b = p.b;
      a.dtype = b.dtype = stored;  // half of their memory
      p.kernel->run(s, {.a = a, .b = b, .c = p.c}, p.scratch);
    }
  }
  count_flops(state, flops);
}
BENCHMARK_CAPTURE(gpt2_layer, f32, Precision::f32)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(gpt2_layer, bf16, Precision::bf16)->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(gpt2_layer, stored_bf16, Precision::bf16, DType::bf16)
    ->Unit(benchmark::kMillisecond);

void dense_forward(benchmark::State& state) {
  MatmulSpec spec;
  spec.m = state.range(0);
  spec.k = state.range(1);
  spec.n = state.range(2);
  spec.transpose_b = true;
  spec.bias = true;
  spec.activation = Activation::relu;
  matmul(state, spec);
}

void dense_backward_weights(benchmark::State& state) {
  MatmulSpec spec;
  spec.k = state.range(0);
  spec.n = state.range(1);
  spec.m = state.range(2);
  spec.transpose_a = true;
  matmul(state, spec);
}

void dense_backward_data(benchmark::State& state) {
  MatmulSpec spec;
  spec.m = state.range(0);
  spec.n = state.range(1);
  spec.k = state.range(2);
  matmul(state, spec);
}

void dense_shapes(benchmark::internal::Benchmark* bench) {
  for (const std::int64_t records : {8, 32, 64, 256, 512}) {
    bench->Args({records, kFeatures, kHidden});
  }
  for (const std::int64_t records : {32, 256}) bench->Args({records, kHidden, 10});
  for (const std::int64_t records : {32, 256}) bench->Args({records, 64, 1});
}
BENCHMARK(dense_forward)->Apply(dense_shapes);
BENCHMARK(dense_backward_weights)->Apply(dense_shapes);
BENCHMARK(dense_backward_data)->Apply(dense_shapes);

}  // namespace
}  // namespace peal

BENCHMARK_MAIN();
