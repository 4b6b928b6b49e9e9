// Kernels that need no preparation, in bytes per second of what they must read and write:
//   build/direct_bench
// "copy" is the yardstick: what one thread of this machine can move.
#include <benchmark/benchmark.h>

#include <vector>

#include "core/device/buffer.h"
#include "core/kernels/kernels.h"

namespace peal {
namespace {

constexpr std::int64_t kArena = 700000;  // parameters of a small CNN

// Floats between -2 and 2 in memory of their own.
class Floats {
 public:
  explicit Floats(const Shape& shape)
      : buffer_(static_cast<std::size_t>(shape.numel()) * sizeof(float)), shape_(shape) {
    const Random random({.seed = 1});
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      tensor().as<float>()[i] = random.uniform(static_cast<std::uint64_t>(i)) * 4 - 2;
    }
  }
  Tensor tensor() const { return {.data = buffer_.data(), .shape = shape_}; }

 private:
  Buffer buffer_;
  Shape shape_;
};

// `moved`: floats read and written by one call.
template <class F>
void measure(benchmark::State& state, std::int64_t moved, F call) {
  for (auto _ : state) {
    call();
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * moved * 4);
}

void copy(benchmark::State& state) {
  const Floats x({state.range(0)}), y({state.range(0)});
  Stream s;
  measure(state, 2 * state.range(0), [&] { kernels(kCpu).copy(s, x.tensor(), y.tensor()); });
}
BENCHMARK(copy)->Arg(32768)->Arg(4 * kArena);

void sgd_momentum(benchmark::State& state) {
  const Floats g({kArena}), v({kArena}), x({kArena});
  Stream s;
  measure(state, 5 * kArena, [&] {
    kernels(kCpu).sgd(s,
                      {.learning_rate = 1e-9,
                       .momentum = 0.9,
                       .weight_decay = 1e-4,
                       .nesterov = false,
                       .first = false,
                       .gradient_scale = 1},
                      g.tensor(), v.tensor(), x.tensor());
  });
}
BENCHMARK(sgd_momentum);

void adam(benchmark::State& state) {
  const Floats g({kArena}), m({kArena}), v({kArena}), x({kArena});
  Stream s;
  kernels(kCpu).fill(s, v.tensor(), 1.0f);
  measure(state, 7 * kArena, [&] {
    kernels(kCpu).adam(s,
                       {.learning_rate = 1e-9,
                        .beta1 = 0.9,
                        .beta2 = 0.999,
                        .epsilon = 1e-8,
                        .weight_decay = 0.01,
                        .decoupled = true,
                        .correction1 = 0.5,
                        .correction2 = 0.1,
                        .gradient_scale = 1},
                       g.tensor(), m.tensor(), v.tensor(), x.tensor());
  });
}
BENCHMARK(adam);

void rmsprop(benchmark::State& state) {
  const Floats g({kArena}), v({kArena}), x({kArena});
  Stream s;
  kernels(kCpu).fill(s, v.tensor(), 1.0f);
  measure(state, 5 * kArena, [&] {
    kernels(kCpu).rmsprop(s,
                          {.learning_rate = 1e-9,
                           .alpha = 0.99,
                           .epsilon = 1e-8,
                           .momentum = 0,
                           .weight_decay = 0,
                           .gradient_scale = 1},
                          g.tensor(), v.tensor(), {}, x.tensor());
  });
}
BENCHMARK(rmsprop);

void sum_squares(benchmark::State& state) {
  const Floats g({kArena}), sums({1024});
  Tensor out = sums.tensor();
  out.dtype = DType::f64;
  Stream s;
  measure(state, kArena, [&] { kernels(kCpu).sum_squares(s, g.tensor(), out); });
}
BENCHMARK(sum_squares);

void dropout(benchmark::State& state) {
  const Floats x({64, 4096}), y({64, 4096});
  DrawKey key{.seed = 1};
  const Tensor draws{.data = &key, .shape = {2}, .dtype = DType::i64};
  Stream s;
  measure(state, 2 * 64 * 4096,
          [&] { kernels(kCpu).dropout(s, draws, /*site=*/0, 0.5f, x.tensor(), y.tensor()); });
}
BENCHMARK(dropout);

void activation(benchmark::State& state, Activation kind) {
  const Floats x({64, 4096}), y({64, 4096});
  Stream s;
  measure(state, 2 * 64 * 4096,
          [&] { kernels(kCpu).activation(s, kind, 0.1f, x.tensor(), y.tensor()); });
}
BENCHMARK_CAPTURE(activation, relu, Activation::relu);
BENCHMARK_CAPTURE(activation, gelu, Activation::gelu);
BENCHMARK_CAPTURE(activation, sigmoid, Activation::sigmoid);
BENCHMARK_CAPTURE(activation, tanh, Activation::tanh);

void activation_backward(benchmark::State& state, Activation kind) {
  const Floats x({64, 4096}), dy({64, 4096}), dx({64, 4096});
  Stream s;
  measure(state, 3 * 64 * 4096, [&] {
    kernels(kCpu).activation_backward(s, kind, 0.1f, x.tensor(), x.tensor(), dy.tensor(),
                                      dx.tensor());
  });
}
BENCHMARK_CAPTURE(activation_backward, relu, Activation::relu);
BENCHMARK_CAPTURE(activation_backward, gelu, Activation::gelu);

void transpose(benchmark::State& state) {
  const Floats x({64, 64, 196}), y({64, 196, 64});
  const int perm[] = {0, 2, 1};
  Stream s;
  measure(state, 2 * 64 * 64 * 196,
          [&] { kernels(kCpu).transpose(s, x.tensor(), perm, y.tensor()); });
}
BENCHMARK(transpose);

void reduce_rows(benchmark::State& state) {
  const Floats x({64, 32, 196}), y({1, 32, 1});
  Stream s;
  measure(state, 64 * 32 * 196, [&] { kernels(kCpu).reduce_sum(s, x.tensor(), 1, y.tensor()); });
}
BENCHMARK(reduce_rows);

void reduce_columns(benchmark::State& state) {
  const Floats x({512, 128}), y({1, 128});
  Stream s;
  measure(state, 512 * 128, [&] { kernels(kCpu).reduce_sum(s, x.tensor(), 1, y.tensor()); });
}
BENCHMARK(reduce_columns);

// Statistics and normalisation: x is read twice, y written.
void batch_norm(benchmark::State& state) {
  const Shape shape{64, 32, state.range(0), state.range(0)}, channels{32};
  const Floats x(shape), y(shape), mean(channels), variance(channels), gamma(channels);
  const Floats weight({64});
  Stream s;
  kernels(kCpu).fill(s, weight.tensor(), 1.0f);
  measure(state, 3 * shape.numel(), [&] {
    kernels(kCpu).batch_norm_statistics(s, x.tensor(), weight.tensor(), mean.tensor(),
                                        variance.tensor(), {});
    kernels(kCpu).batch_norm(s, x.tensor(), mean.tensor(), variance.tensor(), gamma.tensor(),
                             gamma.tensor(), 1e-5f, {}, Activation::none, y.tensor());
  });
}
BENCHMARK(batch_norm)->Arg(14)->Arg(28);

// x and dy are read twice, dx written.
void batch_norm_backward(benchmark::State& state) {
  const Shape shape{64, 32, state.range(0), state.range(0)}, channels{32};
  const Floats x(shape), dy(shape), dx(shape), mean(channels), variance(channels);
  const Floats gamma(channels), dgamma(channels), dbeta(channels), weight({64});
  Stream s;
  kernels(kCpu).fill(s, weight.tensor(), 1.0f);
  kernels(kCpu).fill(s, variance.tensor(), 1.0f);
  measure(state, 5 * shape.numel(), [&] {
    kernels(kCpu).batch_norm_backward(s, x.tensor(), weight.tensor(), mean.tensor(),
                                      variance.tensor(), gamma.tensor(), gamma.tensor(), 1e-5f, {},
                                      Activation::none, dy.tensor(), {}, dx.tensor(),
                                      dgamma.tensor(), dbeta.tensor(), {});
  });
}
BENCHMARK(batch_norm_backward)->Arg(14)->Arg(28);

// Of f32 or bf16.
class Loss {
 public:
  Loss(std::int64_t classes, DType type)
      : shape_{512, classes}, logits_(shape_), type_(type), labels_(512, 3) {
    Stream s;
    kernels(kCpu).fill(s, logits(), 0.5f);
    kernels(kCpu).fill(s, weight_.tensor(), 1);
    kernels(kCpu).fill(s, dloss_.tensor(), 1);
  }
  std::int64_t elements() const { return shape_.numel(); }
  void forward() {
    kernels(kCpu).softmax_cross_entropy(s_, logits(), labels(), weight_.tensor(), saved_.tensor(),
                                        loss_.tensor());
  }
  void backward() {
    kernels(kCpu).softmax_cross_entropy_backward(s_, logits(), saved_.tensor(), labels(),
                                                 weight_.tensor(), dloss_.tensor(), logits());
  }
  void both() {
    kernels(kCpu).softmax_cross_entropy_with_gradient(s_, logits(), labels(), weight_.tensor(),
                                                      dloss_.tensor(), saved_.tensor(),
                                                      loss_.tensor(), logits());
  }

 private:
  Tensor logits() { return {.data = logits_.tensor().data, .shape = shape_, .dtype = type_}; }
  Tensor labels() { return {.data = labels_.data(), .shape = {512}, .dtype = DType::i32}; }

  Shape shape_;
  Floats logits_, saved_{{512, 2}}, weight_{{512}}, loss_{{1}}, dloss_{{1}};
  DType type_;
  std::vector<std::int32_t> labels_;
  Stream s_;
};

void softmax_cross_entropy(benchmark::State& state) {
  Loss loss(state.range(0), DType::f32);
  measure(state, 2 * loss.elements(), [&] { loss.forward(); });
}
BENCHMARK(softmax_cross_entropy)->Arg(10)->Arg(1000);

// Forward and backward, in place: in two calls or in one.
void cross_entropy_and_gradient(benchmark::State& state) {
  Loss loss(state.range(0), state.range(1) == 0 ? DType::f32 : DType::bf16);
  const bool together = state.range(2) == 1;
  measure(state, 4 * loss.elements(), [&] {
    if (together) return loss.both();
    loss.forward();
    loss.backward();
  });
}
BENCHMARK(cross_entropy_and_gradient)
    ->ArgNames({"classes", "bf16", "together"})
    ->ArgsProduct({{10, 65, 1000, 50257}, {0, 1}, {0, 1}});

}  // namespace
}  // namespace peal

BENCHMARK_MAIN();
