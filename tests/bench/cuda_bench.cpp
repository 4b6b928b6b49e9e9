// Speed of the kernels on a GPU, on tensors of 256 MiB, several times its cache:
//   build/cuda_bench [--only TEXT] [DEVICE]        DEVICE: cuda:0
// Each line is the median of 21 calls by CUDA's events. Bytes are counted from the contract: each
// input is read once, each output written once; the share is that of a copy within the device, by
// cudaMemcpyAsync in the same run, which reads and writes too. Kernels that must pass over an input
// twice cannot reach all of it (batch_norm backward: 3 of 5 passes). tests/bench/torch_kernels.py
// prints the same lines for PyTorch, beside these with --beside FILE.
//
// Ends with 1 when a kernel failed, which its line says.
#include "tests/bench/cuda_bench_halves.h"

namespace peal {
namespace {

class Bench : public HalvesBench {
 public:
  using HalvesBench::HalvesBench;

  int run() {
    std::printf("%s, CUDA %s\n\n", name_of(device_).c_str(), cuda_version().c_str());
    std::printf("| kernel | shape | MiB | ms | GB/s or TFLOP/s | of the copy |\n");
    std::printf("|---|---|---:|---:|---:|---:|\n");
    const Tensor x = large(0, {kLarge}), y = large(1, {kLarge});
    copy_rate_ = 2 * static_cast<double>(x.bytes()) / 1e6 / clock_.measure(s_, [&] {
      check(cudaMemcpyAsync(y.data, x.data, x.bytes(), cudaMemcpyDeviceToDevice,
                            static_cast<cudaStream_t>(s_.handle())));
    });
    std::printf("| cudaMemcpyAsync | %s | %lld | %.3f | %.0f | 100%% |\n",
                to_string(x.shape).c_str(), static_cast<long long>(2 * x.bytes() >> 20),
                2 * static_cast<double>(x.bytes()) / 1e6 / copy_rate_, copy_rate_);
    pointwise();
    shapes();
    sums();
    rows();
    batch_norm();
    losses();
    optimizers();
    low_rank();
    pooling();
    convolution();
    products();
    halves();
    return failed_ ? 1 : 0;
  }

 private:
  void pointwise() {
    const Shape n{kLarge}, matrix{kLarge / 1024, 1024};
    const Tensor x = large(0, n), y = large(1, n), z = large(2, n), row = small(0, {1024});
    line("copy", n, bytes_of({x, y}), [&] { k_.copy(s_, x, y); });
    line("fill", n, bytes_of({z}), [&] { k_.fill(s_, z, 0.5f); });
    line("scale", n, bytes_of({x, z}), [&] { k_.scale(s_, 1.5f, x, z); });
    line("accumulate", n, bytes_of({x, z, z}), [&] { k_.accumulate(s_, x, z); });
    line("subtract_scaled", n, bytes_of({x, z, z}), [&] { k_.subtract_scaled(s_, 0.5f, x, z); });
    line("binary add", n, bytes_of({x, y, z}), [&] { k_.binary(s_, BinaryOp::add, x, y, z); });
    line("binary add row", matrix, bytes_of({x, row, z}),
         [&] { k_.binary(s_, BinaryOp::add, large(0, matrix), row, large(2, matrix)); });
    const std::pair<const char*, Activation> kinds[] = {{"relu", Activation::relu},
                                                        {"gelu", Activation::gelu},
                                                        {"sigmoid", Activation::sigmoid},
                                                        {"tanh", Activation::tanh}};
    for (const auto& [name, kind] : kinds) {
      line(name, n, bytes_of({x, z}), [&] { k_.activation(s_, kind, 0, x, z); });
      const bool reads_x = kind == Activation::gelu;
      line(cat(name, " backward").c_str(), n, bytes_of({x, y, z}), [&] {
        k_.activation_backward(s_, kind, 0, reads_x ? x : Tensor{}, reads_x ? Tensor{} : x, y, z);
      });
    }
    line("dropout", n, bytes_of({x, z}),
         [&] { k_.dropout(s_, any_key(), /*site=*/1, 0.5f, x, z); });
  }

  void shapes() {
    const Shape square{8192, 8192}, image{64, 256, 64, 64}, last{64, 64, 64, 256};
    const int swap[] = {1, 0}, channels_last[] = {0, 2, 3, 1};
    line("transpose", square, bytes_of({large(0, square), large(2, square)}),
         [&] { k_.transpose(s_, large(0, square), swap, large(2, square)); });
    line("transpose 0231", image, bytes_of({large(0, image), large(2, last)}),
         [&] { k_.transpose(s_, large(0, image), channels_last, large(2, last)); });
    const std::int64_t origin[] = {0, 0}, right[] = {0, 4096};
    const Shape half{8192, 4096};
    line("copy_box", half, 2 * bytes_of({large(0, half)}),
         [&] { k_.copy_box(s_, large(0, half), origin, large(2, square), right, half); });
    const Tensor row = small(0, {1, 8192});
    line("broadcast row", square, bytes_of({row, large(2, square)}),
         [&] { k_.broadcast(s_, row, 0.5f, large(2, square)); });
  }

  void sums() {
    const Shape matrix{65536, 1024}, image{64, 256, 64, 64};
    const Tensor x = large(0, matrix);
    const auto sum = [&](const char* name, const Shape& from, const Shape& to) {
      line(name, from, bytes_of({large(0, from), small(1, to)}),
           [&, from, to] { k_.reduce_sum(s_, large(0, from), 1, small(1, to)); });
    };
    sum("reduce_sum rows", matrix, {1, 1024});
    sum("reduce_sum columns", matrix, {65536, 1});
    sum("reduce_sum all", matrix, {1, 1});
    sum("reduce_sum channels", image, {1, 256, 1, 1});
    Tensor blocks = small(1, {kLarge / Kernels::kNormBlock});
    blocks.dtype = DType::f64;
    line("sum_squares", {kLarge}, bytes_of({x, blocks}),
         [&] { k_.sum_squares(s_, large(0, {kLarge}), blocks); });
  }

  void rows() {
    const std::int64_t rows = 65536, columns = 1024;
    const Shape shape{rows, columns};
    const Tensor x = large(0, shape), y = large(1, shape), dy = large(2, shape),
                 dx = large(3, shape);
    for (const bool log : {false, true}) {
      group("softmax", [&] {
        const auto softmax = k_.make_softmax(rows, columns, log);
        const Buffer scratch = bytes(softmax->scratch_bytes());
        const std::string name = log ? "log_softmax" : "softmax";
        line(name.c_str(), shape, bytes_of({x, y}),
             [&] { softmax->forward(s_, x, y, view(scratch)); });
        line((name + " backward").c_str(), shape, bytes_of({y, dy, dx}),
             [&] { softmax->backward(s_, y, dy, dx, view(scratch)); });
      });
    }
    group("layer_norm", [&] {
      const auto norm = k_.make_layer_norm(rows, columns, 1e-5f);
      const Buffer scratch = bytes(norm->scratch_bytes());
      const Tensor gamma = small(0, {columns}), beta = small(1, {columns}), mean = small(2, {rows}),
                   variance = small(3, {rows}), dgamma = small(4, {columns}),
                   dbeta = small(5, {columns});
      line("layer_norm", shape, bytes_of({x, gamma, beta, y, mean, variance}),
           [&] { norm->forward(s_, x, gamma, beta, y, mean, variance, view(scratch)); });
      line("layer_norm backward", shape,
           bytes_of({x, gamma, mean, variance, dy, dx, dgamma, dbeta}), [&] {
             norm->backward(s_, x, gamma, mean, variance, dy, {}, dx, dgamma, dbeta, view(scratch));
           });
    });
  }

  void batch_norm() {
    const Shape shape{64, 256, 64, 64}, channels{256};
    const Tensor x = large(0, shape), y = large(1, shape), dy = large(2, shape),
                 dx = large(3, shape);
    const Tensor mean = small(0, channels), variance = small(1, channels),
                 gamma = small(2, channels), beta = small(3, channels), weight = small(4, {64}),
                 dgamma = small(5, channels), dbeta = small(6, channels);
    const std::vector<float> ones(64, 1.0f);
    write(weight.as<std::byte>(), ones.data(), weight.bytes());
    line("batch_norm_statistics", shape, bytes_of({x, weight, mean, variance}),
         [&] { k_.batch_norm_statistics(s_, x, weight, mean, variance, {}); });
    line("batch_norm", shape, bytes_of({x, mean, variance, gamma, beta, y}), [&] {
      k_.batch_norm(s_, x, mean, variance, gamma, beta, 1e-5f, {}, Activation::none, y);
    });
    line("batch_norm training", shape, bytes_of({x, x, y}), [&] {
      k_.batch_norm_statistics(s_, x, weight, mean, variance, {});
      k_.batch_norm(s_, x, mean, variance, gamma, beta, 1e-5f, {}, Activation::none, y);
    });
    line("batch_norm backward", shape, bytes_of({x, dy, dx}), [&] {
      k_.batch_norm_backward(s_, x, weight, mean, variance, gamma, beta, 1e-5f, {},
                             Activation::none, dy, {}, dx, dgamma, dbeta, {});
    });
  }

  void losses() {
    const std::int64_t records = 65536, classes = 1024;
    const Shape shape{records, classes};
    const Tensor x = large(0, shape), saved = large(1, {records, 2}), dx = large(2, shape),
                 labels = ids(records, classes), weight = small(0, {records}), loss = small(1, {1}),
                 dloss = small(2, {1});
    const std::vector<float> ones(static_cast<std::size_t>(records), 1.0f);
    write(weight.as<std::byte>(), ones.data(), weight.bytes());
    line("softmax_cross_entropy", shape, bytes_of({x, labels, weight, saved}),
         [&] { k_.softmax_cross_entropy(s_, x, labels, weight, saved, loss); });
    line("softmax_cross_entropy backward", shape, bytes_of({x, labels, weight, dx}),
         [&] { k_.softmax_cross_entropy_backward(s_, x, saved, labels, weight, dloss, dx); });
    line("softmax_cross_entropy with gradient", shape, bytes_of({x, labels, weight, dx}), [&] {
      k_.softmax_cross_entropy_with_gradient(s_, x, labels, weight, dloss, saved, loss, dx);
    });
    line("count_correct", shape, bytes_of({x, labels, weight}),
         [&] { k_.count_correct(s_, x, labels, weight, loss); });
    line("squared_error", shape, bytes_of({x, dx, weight}),
         [&] { k_.squared_error(s_, x, dx, weight, loss); });

    const Shape table_shape{50000, 1024};
    const Tensor table = large(0, table_shape), y = large(1, shape),
                 tokens = ids(records, table_shape[0]);
    line("embedding", shape, bytes_of({tokens, y, y}), [&] { k_.embedding(s_, tokens, table, y); });
    const Buffer scratch = bytes(Kernels::embedding_scratch_bytes(tokens.numel(), table_shape[0]));
    line("embedding backward", shape, bytes_of({tokens, y, table}),
         [&] { k_.embedding_backward(s_, tokens, y, /*adds=*/false, table, view(scratch)); });
  }

  void optimizers() {
    const Shape n{kLarge};
    // What the others left may be anything: squares must not be negative.
    for (std::size_t i = 1; i < large_.size(); ++i) k_.fill(s_, large(i, n), 0.25f);
    const Tensor g = large(0, n), m = large(1, n), v = large(2, n), x = large(3, n);
    const Kernels::SgdStep sgd{.learning_rate = 1e-3,
                               .momentum = 0.9,
                               .weight_decay = 0,
                               .nesterov = false,
                               .first = false,
                               .gradient_scale = 1};
    line("sgd", n, bytes_of({g, m, x, m, x}), [&] { k_.sgd(s_, sgd, g, m, x); });
    const Kernels::AdamStep adam{.learning_rate = 1e-3,
                                 .beta1 = 0.9,
                                 .beta2 = 0.999,
                                 .epsilon = 1e-8,
                                 .weight_decay = 0,
                                 .decoupled = false,
                                 .correction1 = 0.1,
                                 .correction2 = 0.001,
                                 .gradient_scale = 1};
    line("adam", n, bytes_of({g, m, v, x, m, v, x}), [&] { k_.adam(s_, adam, g, m, v, x); });
    const Kernels::RmsPropStep rmsprop{.learning_rate = 1e-3,
                                       .alpha = 0.99,
                                       .epsilon = 1e-8,
                                       .momentum = 0,
                                       .weight_decay = 0,
                                       .gradient_scale = 1};
    line("rmsprop", n, bytes_of({g, v, x, v, x}), [&] { k_.rmsprop(s_, rmsprop, g, v, {}, x); });
  }

  void low_rank() {
    const Shape shape{16384, 4096};
    const Tensor g = large(0, shape), m = large(1, shape), y = large(2, shape),
                 q = small(0, {4, 4096}), p = small(1, {16384, 4});
    line("low_rank_project", shape, bytes_of({g, m, m, q, p}),
         [&] { k_.low_rank_project(s_, g, q, m, p); });
    line("low_rank_project_back", shape, bytes_of({m, p, q}),
         [&] { k_.low_rank_project_back(s_, m, p, q); });
    line("low_rank_expand", shape, bytes_of({p, q, y}), [&] { k_.low_rank_expand(s_, p, q, y); });
  }

  void pooling() {
    for (const bool max : {true, false}) {
      const std::string name = max ? "max_pool2d" : "avg_pool2d";
      group(name.c_str(), [&] {
        Pool2dSpec spec;
        spec.kind = max ? PoolKind::max : PoolKind::average;
        spec.x = {64, 64, 128, 128};
        const auto pool = k_.make_pool2d(spec);
        const Buffer saved = bytes(pool->saved_bytes()), scratch = bytes(pool->scratch_bytes());
        const Tensor x = large(0, spec.x), y = large(1, spec.y(), pool->y_layout()),
                     dy = large(2, spec.y(), pool->y_layout()), dx = large(3, spec.x);
        line(name.c_str(), spec.x, bytes_of({x, y, view(saved)}),
             [&] { pool->forward(s_, x, y, view(saved), view(scratch)); });
        line((name + " backward").c_str(), spec.x, bytes_of({dy, view(saved), dx}),
             [&] { pool->backward(s_, dy, view(saved), dx, view(scratch)); });
      });
    }
  }

  void convolution() {
    struct Case {
      Shape x, w;
    };
    for (const auto& [x_shape, w_shape] :
         {Case{{64, 64, 56, 56}, {64, 64, 3, 3}}, Case{{64, 256, 14, 14}, {256, 256, 3, 3}},
          Case{{256, 1, 28, 28}, {32, 1, 3, 3}}, Case{{64, 1, 28, 28}, {32, 1, 3, 3}}}) {
      group("conv2d", [&, x_of = x_shape, w_of = w_shape] {
        Conv2dSpec spec;
        spec.x = x_of;
        spec.w = w_of;
        spec.padding[0] = spec.padding[1] = 1;
        spec.bias = true;
        const auto conv = k_.make_conv2d(spec);
        const Buffer scratch = bytes(conv->scratch_bytes());
        const Tensor x = large(0, spec.x), w = small(0, spec.w), b = small(1, {spec.w[0]}),
                     y = large(1, spec.y(), conv->y_layout()),
                     dy = large(2, spec.y(), conv->y_layout()), dx = large(3, spec.x),
                     dw = small(2, spec.w), db = small(3, {spec.w[0]});
        const std::int64_t flops = 2 * spec.y().numel() * spec.w[1] * spec.w[2] * spec.w[3];
        line(
            "conv2d", spec.x, flops, [&] { conv->forward(s_, x, w, b, y, view(scratch)); }, true);
        line(
            "conv2d backward_data", spec.x, flops,
            [&] { conv->backward_data(s_, dy, w, dx, view(scratch)); }, true);
        line(
            "conv2d backward_weights", spec.x, flops,
            [&] { conv->backward_weights(s_, x, dy, dw, db, view(scratch)); }, true);
      });
    }
  }

  void products() {
    for (const auto& [m, n, k] :
         {std::array<std::int64_t, 3>{4096, 4096, 4096}, {256, 128, 5408}, {8192, 1024, 1024}}) {
      for (const bool transpose : {false, true}) {
        group("matmul", [&, rows = m, columns = n, inner = k] {
          MatmulSpec spec;
          spec.m = rows;
          spec.n = columns;
          spec.k = inner;
          spec.transpose_b = transpose;
          const auto product = k_.make_matmul(spec);
          const Buffer scratch = bytes(product->scratch_bytes());
          const Tensor a = large(0, {1, rows, inner}), c = large(2, {1, rows, columns}),
                       b = large(1,
                                 transpose ? Shape{1, columns, inner} : Shape{1, inner, columns});
          line(
              transpose ? "matmul nt" : "matmul nn", {rows, columns, inner},
              2 * rows * columns * inner,
              [&] { product->run(s_, {.a = a, .b = b, .c = c}, view(scratch)); }, true);
        });
      }
    }
  }
};

int run(int count, char** arguments) {
  std::string only, device = "cuda:0";
  for (int i = 1; i < count; ++i) {
    const std::string word = arguments[i];
    if (word == "--only" && i + 1 < count) {
      only = arguments[++i];
    } else if (word.starts_with("cuda:") && word.size() == 6 && std::isdigit(word[5]) != 0) {
      device = word;
    } else {
      fail_input("cuda_bench", "unknown argument \"", word, "\"; allowed: --only TEXT, cuda:N");
    }
  }
  const Device chosen{Device::Kind::cuda, device[5] - '0'};
  require_device(chosen);
  check(cudaSetDevice(chosen.index));
  return Bench(chosen, only).run();
}

}  // namespace
}  // namespace peal

int main(int count, char** arguments) {
  try {
    return peal::run(count, arguments);
  } catch (const peal::Error& error) {
    std::fprintf(stderr, "cuda_bench: %s\n", error.what());
    return peal::exit_code(error.kind());
  }
}
