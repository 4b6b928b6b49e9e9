// Kernels that take host memory and make each call with a copy of it on a device (mirror.h), so
// that the tests, which write and read their arrays, run over kernels of device memory.
#pragma once

#include <memory>
#include <span>
#include <utility>

#include "tests/kernels/mirror.h"

namespace peal {

// A prepared kernel of the device.
template <typename Inner>
class MirroredPrepared : public Inner {
 public:
  MirroredPrepared(std::unique_ptr<Inner> inner, const Device& device)
      : inner_(std::move(inner)), device_(device) {}

  std::size_t scratch_bytes() const override { return inner_->scratch_bytes(); }

 protected:
  std::unique_ptr<Inner> inner_;
  Device device_;
};

class MirroredConv2d final : public MirroredPrepared<Conv2d> {
 public:
  using MirroredPrepared::MirroredPrepared;
  const Layout* y_layout() const override { return inner_->y_layout(); }
  const Layout* w_layout() const override { return inner_->w_layout(); }
  void forward(Stream&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor scratch) override {
    mirrored(
        device_, "conv2d", {x, w, b}, {y, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->forward(s, in[0], in[1], in[2], out[0], out[1]);
        },
        scratch);
  }
  void backward_data(Stream&, const Tensor& dy, const Tensor& w, Tensor dx,
                     Tensor scratch) override {
    mirrored(
        device_, "conv2d backward_data", {dy, w}, {dx, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->backward_data(s, in[0], in[1], out[0], out[1]);
        },
        scratch);
  }
  void backward_weights(Stream&, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor scratch) override {
    mirrored(
        device_, "conv2d backward_weights", {x, dy}, {dw, db, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->backward_weights(s, in[0], in[1], out[0], out[1], out[2]);
        },
        scratch);
  }
};

class MirroredPool2d final : public MirroredPrepared<Pool2d> {
 public:
  using MirroredPrepared::MirroredPrepared;
  const Layout* y_layout() const override { return inner_->y_layout(); }
  std::size_t saved_bytes() const override { return inner_->saved_bytes(); }
  void forward(Stream&, const Tensor& x, Tensor y, Tensor saved, Tensor scratch) override {
    mirrored(
        device_, "pool2d", {x}, {y, saved, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->forward(s, in[0], out[0], out[1], out[2]);
        },
        scratch);
  }
  void backward(Stream&, const Tensor& dy, const Tensor& saved, Tensor dx,
                Tensor scratch) override {
    mirrored(
        device_, "pool2d backward", {dy, saved}, {dx, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->backward(s, in[0], in[1], out[0], out[1]);
        },
        scratch);
  }
};

class MirroredMatmul final : public MirroredPrepared<Matmul> {
 public:
  MirroredMatmul(std::unique_ptr<Matmul> inner, const Device& device, const MatmulSpec& spec)
      : MirroredPrepared(std::move(inner), device), reads_before_(spec.slope) {}
  void run(Stream&, const Operands& of, Tensor scratch) override {
    const Tensor none, &read = reads_before_ ? of.before : none,
                       &written = reads_before_ ? none : of.before;
    mirrored(
        device_, "matmul", {of.a, of.b, of.bias, of.addend, read},
        {of.c, written, of.sums, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->run(s,
                      {in[0], in[1], out[0], in[2], in[3], reads_before_ ? in[4] : out[1], out[2]},
                      out[3]);
        },
        scratch);
  }

 private:
  bool reads_before_;
};

class MirroredSoftmax final : public MirroredPrepared<Softmax> {
 public:
  using MirroredPrepared::MirroredPrepared;
  void forward(Stream&, const Tensor& x, Tensor y, Tensor scratch) override {
    mirrored(
        device_, "softmax", {x}, {y, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->forward(s, in[0], out[0], out[1]);
        },
        scratch);
  }
  void backward(Stream&, const Tensor& y, const Tensor& dy, Tensor dx, Tensor scratch) override {
    mirrored(
        device_, "softmax backward", {y, dy}, {dx, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->backward(s, in[0], in[1], out[0], out[1]);
        },
        scratch);
  }
};

class MirroredLayerNorm final : public MirroredPrepared<LayerNorm> {
 public:
  using MirroredPrepared::MirroredPrepared;
  bool adds_in_place() const override { return inner_->adds_in_place(); }
  void forward(Stream&, const Tensor& x, const Tensor& gamma, const Tensor& beta, Tensor y,
               Tensor mean, Tensor variance, Tensor scratch) override {
    mirrored(
        device_, "layer_norm", {x, gamma, beta}, {y, mean, variance, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->forward(s, in[0], in[1], in[2], out[0], out[1], out[2], out[3]);
        },
        scratch);
  }
  void backward(Stream&, const Tensor& x, const Tensor& gamma, const Tensor& mean,
                const Tensor& variance, const Tensor& dy, const Tensor& more_dx, Tensor dx,
                Tensor dgamma, Tensor dbeta, Tensor scratch) override {
    mirrored(
        device_, "layer_norm backward", {x, gamma, mean, variance, dy, more_dx},
        {dx, dgamma, dbeta, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->backward(s, in[0], in[1], in[2], in[3], in[4], in[5], out[0], out[1], out[2],
                           out[3]);
        },
        scratch);
  }
};

class MirroredRecurrent final : public MirroredPrepared<Recurrent> {
 public:
  using MirroredPrepared::MirroredPrepared;
  std::size_t saved_bytes() const override { return inner_->saved_bytes(); }
  void forward(Stream&, const Tensor& x, const Tensor& lengths, const State& first,
               std::span<const Tensor> weights, Tensor y, State last, Tensor saved,
               Tensor scratch) override {
    Tensors reads = {x, lengths, first.h, first.c};
    reads.insert(reads.end(), weights.begin(), weights.end());
    mirrored(
        device_, "recurrent", reads, {y, last.h, last.c, saved, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->forward(s, in[0], in[1], {in[2], in[3]}, std::span(in).subspan(4), out[0],
                          {out[1], out[2]}, out[3], out[4]);
        },
        scratch);
  }
  void backward(Stream&, const Tensor& x, const Tensor& lengths, const State& first,
                std::span<const Tensor> weights, const Tensor& y, const Tensor& dy,
                const State& dlast, const Tensor& saved, Tensor dx, State dfirst,
                std::span<const Tensor> dweights, Tensor scratch) override {
    Tensors reads = {x, lengths, first.h, first.c, y, dy, dlast.h, dlast.c, saved};
    reads.insert(reads.end(), weights.begin(), weights.end());
    Tensors writes = {dx, dfirst.h, dfirst.c, scratch};
    writes.insert(writes.end(), dweights.begin(), dweights.end());
    mirrored(
        device_, "recurrent backward", reads, writes,
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->backward(s, in[0], in[1], {in[2], in[3]}, std::span(in).subspan(9), in[4], in[5],
                           {in[6], in[7]}, in[8], out[0], {out[1], out[2]},
                           std::span(out).subspan(4), out[3]);
        },
        scratch);
  }
};

class MirroredAttention final : public MirroredPrepared<Attention> {
 public:
  using MirroredPrepared::MirroredPrepared;
  void forward(Stream&, const Tensor& qkv, Tensor y, Tensor log_sums, Tensor scratch) override {
    mirrored(
        device_, "attention", {qkv}, {y, log_sums, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->forward(s, in[0], out[0], out[1], out[2]);
        },
        scratch);
  }
  void backward(Stream&, const Tensor& qkv, const Tensor& y, const Tensor& log_sums,
                const Tensor& dy, Tensor dqkv, Tensor scratch) override {
    mirrored(
        device_, "attention backward", {qkv, y, log_sums, dy}, {dqkv, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->backward(s, in[0], in[1], in[2], in[3], out[0], out[1]);
        },
        scratch);
  }
};

class MirroredAttentionStep final : public MirroredPrepared<AttentionStep> {
 public:
  using MirroredPrepared::MirroredPrepared;
  void run(Stream&, const Tensor& qkv, const Tensor& position, Tensor cache, Tensor y,
           Tensor scratch) override {
    mirrored(
        device_, "attention_step", {qkv, position, cache}, {cache, y, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->run(s, in[0], in[1], out[0], out[1], out[2]);
        },
        scratch);
  }
};

class MirroredReorder final : public MirroredPrepared<Reorder> {
 public:
  using MirroredPrepared::MirroredPrepared;
  void run(Stream&, const Tensor& from, Tensor to, Tensor scratch) override {
    mirrored(
        device_, "reorder", {from}, {to, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_->run(s, in[0], out[0], out[1]);
        },
        scratch);
  }
};

class MirroredKernels final : public Kernels {
 public:
  MirroredKernels(Kernels& inner, const Device& device) : inner_(inner), device_(device) {}

  bool has_precision(Precision precision) const override { return inner_.has_precision(precision); }
  std::int64_t padded_columns(std::int64_t rows, std::int64_t columns,
                              DType stored) const override {
    return inner_.padded_columns(rows, columns, stored);
  }
  std::unique_ptr<Conv2d> make_conv2d(const Conv2dSpec& spec) override {
    return over<MirroredConv2d>(inner_.make_conv2d(spec));
  }
  std::unique_ptr<Pool2d> make_pool2d(const Pool2dSpec& spec) override {
    return over<MirroredPool2d>(inner_.make_pool2d(spec));
  }
  // Its parts are what is tested on a device.
  std::unique_ptr<ConvReluPool> make_conv_relu_pool(const Conv2dSpec&, const Pool2dSpec&) override {
    return nullptr;
  }
  std::unique_ptr<Matmul> make_matmul(const MatmulSpec& spec) override {
    return std::make_unique<MirroredMatmul>(inner_.make_matmul(spec), device_, spec);
  }
  std::unique_ptr<Softmax> make_softmax(std::int64_t rows, std::int64_t columns,
                                        bool log) override {
    return over<MirroredSoftmax>(inner_.make_softmax(rows, columns, log));
  }
  std::unique_ptr<LayerNorm> make_layer_norm(std::int64_t rows, std::int64_t columns, float epsilon,
                                             DType stored) override {
    return over<MirroredLayerNorm>(inner_.make_layer_norm(rows, columns, epsilon, stored));
  }
  std::unique_ptr<Recurrent> make_recurrent(const RecurrentSpec& spec) override {
    return over<MirroredRecurrent>(inner_.make_recurrent(spec));
  }
  std::unique_ptr<Attention> make_attention(const AttentionSpec& spec) override {
    return over<MirroredAttention>(inner_.make_attention(spec));
  }
  std::unique_ptr<AttentionStep> make_attention_step(const AttentionStepSpec& spec) override {
    return over<MirroredAttentionStep>(inner_.make_attention_step(spec));
  }
  std::unique_ptr<Reorder> make_reorder(const Shape& shape, const Form& from,
                                        const Form& to) override {
    return over<MirroredReorder>(inner_.make_reorder(shape, from, to));
  }
  void fill(Stream&, Tensor x, float value) override {
    mirrored(device_, "fill", {}, {x},
             [&](Stream& s, const Tensors&, const Tensors& out) { inner_.fill(s, out[0], value); });
  }
  void copy(Stream&, const Tensor& from, Tensor to) override {
    mirrored(device_, "copy", {from}, {to}, [&](Stream& s, const Tensors& in, const Tensors& out) {
      inner_.copy(s, in[0], out[0]);
    });
  }
  void activation(Stream&, Activation kind, float slope, const Tensor& x, Tensor y) override {
    mirrored(device_, "activation", {x}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.activation(s, kind, slope, in[0], out[0]);
             });
  }
  void activation_backward(Stream&, Activation kind, float slope, const Tensor& x, const Tensor& y,
                           const Tensor& dy, Tensor dx) override {
    mirrored(device_, "activation_backward", {x, y, dy}, {dx},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.activation_backward(s, kind, slope, in[0], in[1], in[2], out[0]);
             });
  }
  void scale(Stream&, float factor, const Tensor& x, Tensor y) override {
    mirrored(device_, "scale", {x}, {y}, [&](Stream& s, const Tensors& in, const Tensors& out) {
      inner_.scale(s, factor, in[0], out[0]);
    });
  }
  void accumulate(Stream&, const Tensor& x, Tensor y) override {
    mirrored(device_, "accumulate", {x, y}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.accumulate(s, in[0], out[0]);
             });
  }
  void binary(Stream&, BinaryOp op, const Tensor& x, const Tensor& y, Tensor z) override {
    mirrored(device_, "binary", {x, y}, {z}, [&](Stream& s, const Tensors& in, const Tensors& out) {
      inner_.binary(s, op, in[0], in[1], out[0]);
    });
  }
  void set_values(Stream&, std::span<const std::int64_t> values, Tensor to) override {
    mirrored(device_, "set_values", {}, {to}, [&](Stream& s, const Tensors&, const Tensors& out) {
      inner_.set_values(s, values, out[0]);
    });
  }
  void dropout(Stream&, const Tensor& draws, std::uint64_t site, float p, const Tensor& x,
               Tensor y) override {
    mirrored(device_, "dropout", {draws, x}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.dropout(s, in[0], site, p, in[1], out[0]);
             });
  }
  void transpose(Stream&, const Tensor& x, std::span<const int> perm, Tensor y) override {
    mirrored(device_, "transpose", {x}, {y}, [&](Stream& s, const Tensors& in, const Tensors& out) {
      inner_.transpose(s, in[0], perm, out[0]);
    });
  }
  void copy_box(Stream&, const Tensor& x, std::span<const std::int64_t> x_start, Tensor y,
                std::span<const std::int64_t> y_start, const Shape& extent) override {
    mirrored(device_, "copy_box", {x, y}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.copy_box(s, in[0], x_start, out[0], y_start, extent);
             });
  }
  void reduce_sum(Stream&, const Tensor& x, float factor, Tensor y) override {
    mirrored(device_, "reduce_sum", {x}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.reduce_sum(s, in[0], factor, out[0]);
             });
  }
  void broadcast(Stream&, const Tensor& x, float factor, Tensor y) override {
    mirrored(device_, "broadcast", {x}, {y}, [&](Stream& s, const Tensors& in, const Tensors& out) {
      inner_.broadcast(s, in[0], factor, out[0]);
    });
  }
  void batch_norm_statistics(Stream&, const Tensor& x, const Tensor& weight, Tensor mean,
                             Tensor variance, Tensor contribution) override {
    mirrored(device_, "batch_norm_statistics", {x, weight}, {mean, variance, contribution},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.batch_norm_statistics(s, in[0], in[1], out[0], out[1], out[2]);
             });
  }
  void batch_norm(Stream&, const Tensor& x, const Tensor& mean, const Tensor& variance,
                  const Tensor& gamma, const Tensor& beta, float epsilon, const Tensor& residual,
                  Activation activation, Tensor y) override {
    mirrored(device_, "batch_norm", {x, mean, variance, gamma, beta, residual}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.batch_norm(s, in[0], in[1], in[2], in[3], in[4], epsilon, in[5], activation,
                                 out[0]);
             });
  }
  void batch_norm_backward(Stream&, const Tensor& x, const Tensor& weight, const Tensor& mean,
                           const Tensor& variance, const Tensor& gamma, const Tensor& beta,
                           float epsilon, const Tensor& y, Activation activation, const Tensor& dy,
                           const Tensor& more_dy, Tensor dx, Tensor dgamma, Tensor dbeta,
                           Tensor dresidual) override {
    mirrored(
        device_, "batch_norm_backward", {x, weight, mean, variance, gamma, beta, y, dy, more_dy},
        {dx, dgamma, dbeta, dresidual}, [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_.batch_norm_backward(s, in[0], in[1], in[2], in[3], in[4], in[5], epsilon, in[6],
                                     activation, in[7], in[8], out[0], out[1], out[2], out[3]);
        });
  }
  void batch_norm_running(Stream&, const Tensor& sums, float momentum, Tensor mean,
                          Tensor variance) override {
    mirrored(device_, "batch_norm_running", {sums, mean, variance}, {mean, variance},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.batch_norm_running(s, in[0], momentum, out[0], out[1]);
             });
  }
  void embedding(Stream&, const Tensor& ids, const Tensor& table, Tensor y) override {
    mirrored(device_, "embedding", {ids, table}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.embedding(s, in[0], in[1], out[0]);
             });
  }
  void embedding_backward(Stream&, const Tensor& ids, const Tensor& dy, bool adds, Tensor dtable,
                          Tensor scratch) override {
    mirrored(
        device_, "embedding_backward", {ids, dy, adds ? dtable : Tensor{}}, {dtable, scratch},
        [&](Stream& s, const Tensors& in, const Tensors& out) {
          inner_.embedding_backward(s, in[0], in[1], adds, out[0], out[1]);
        },
        scratch);
  }
  void softmax_cross_entropy(Stream&, const Tensor& logits, const Tensor& labels,
                             const Tensor& weight, Tensor saved, Tensor loss) override {
    mirrored(device_, "softmax_cross_entropy", {logits, labels, weight}, {saved, loss},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.softmax_cross_entropy(s, in[0], in[1], in[2], out[0], out[1]);
             });
  }
  void softmax_cross_entropy_backward(Stream&, const Tensor& logits, const Tensor& saved,
                                      const Tensor& labels, const Tensor& weight,
                                      const Tensor& dloss, Tensor dlogits) override {
    mirrored(device_, "softmax_cross_entropy_backward", {logits, saved, labels, weight, dloss},
             {dlogits}, [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.softmax_cross_entropy_backward(s, in[0], in[1], in[2], in[3], in[4], out[0]);
             });
  }
  void softmax_cross_entropy_with_gradient(Stream&, const Tensor& logits, const Tensor& labels,
                                           const Tensor& weight, const Tensor& dloss, Tensor saved,
                                           Tensor loss, Tensor dlogits) override {
    mirrored(device_, "softmax_cross_entropy_with_gradient", {logits, labels, weight, dloss},
             {saved, loss, dlogits}, [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.softmax_cross_entropy_with_gradient(s, in[0], in[1], in[2], in[3], out[0],
                                                          out[1], out[2]);
             });
  }
  void binary_cross_entropy(Stream&, const Tensor& logits, const Tensor& targets,
                            const Tensor& weight, Tensor loss) override {
    mirrored(device_, "binary_cross_entropy", {logits, targets, weight}, {loss},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.binary_cross_entropy(s, in[0], in[1], in[2], out[0]);
             });
  }
  void binary_cross_entropy_backward(Stream&, const Tensor& logits, const Tensor& targets,
                                     const Tensor& weight, const Tensor& dloss,
                                     Tensor dlogits) override {
    mirrored(device_, "binary_cross_entropy_backward", {logits, targets, weight, dloss}, {dlogits},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.binary_cross_entropy_backward(s, in[0], in[1], in[2], in[3], out[0]);
             });
  }
  void squared_error(Stream&, const Tensor& x, const Tensor& targets, const Tensor& weight,
                     Tensor loss) override {
    mirrored(device_, "squared_error", {x, targets, weight}, {loss},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.squared_error(s, in[0], in[1], in[2], out[0]);
             });
  }
  void squared_error_backward(Stream&, const Tensor& x, const Tensor& targets, const Tensor& weight,
                              const Tensor& dloss, Tensor dx) override {
    mirrored(device_, "squared_error_backward", {x, targets, weight, dloss}, {dx},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.squared_error_backward(s, in[0], in[1], in[2], in[3], out[0]);
             });
  }
  void count_correct(Stream&, const Tensor& logits, const Tensor& labels, const Tensor& weight,
                     Tensor count) override {
    mirrored(device_, "count_correct", {logits, labels, weight}, {count},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.count_correct(s, in[0], in[1], in[2], out[0]);
             });
  }
  void count_correct_binary(Stream&, const Tensor& logits, const Tensor& targets,
                            const Tensor& weight, Tensor count) override {
    mirrored(device_, "count_correct_binary", {logits, targets, weight}, {count},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.count_correct_binary(s, in[0], in[1], in[2], out[0]);
             });
  }
  void low_rank_project(Stream&, const Tensor& g, const Tensor& q, Tensor m, Tensor p) override {
    mirrored(device_, "low_rank_project", {g, q, m}, {m, p},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.low_rank_project(s, in[0], in[1], out[0], out[1]);
             });
  }
  void low_rank_project_back(Stream&, const Tensor& m, const Tensor& p, Tensor q) override {
    mirrored(device_, "low_rank_project_back", {m, p}, {q},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.low_rank_project_back(s, in[0], in[1], out[0]);
             });
  }
  void low_rank_expand(Stream&, const Tensor& p, const Tensor& q, Tensor y) override {
    mirrored(device_, "low_rank_expand", {p, q}, {y},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.low_rank_expand(s, in[0], in[1], out[0]);
             });
  }
  void subtract_scaled(Stream&, float factor, const Tensor& y, Tensor m) override {
    mirrored(device_, "subtract_scaled", {y, m}, {m},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.subtract_scaled(s, factor, in[0], out[0]);
             });
  }
  void orthonormalize(Stream&, const RandomKey& key, Tensor p) override {
    mirrored(device_, "orthonormalize", {p}, {p},
             [&](Stream& s, const Tensors&, const Tensors& out) {
               inner_.orthonormalize(s, key, out[0]);
             });
  }
  void sum_squares(Stream&, const Tensor& x, Tensor sums) override {
    mirrored(device_, "sum_squares", {x}, {sums},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.sum_squares(s, in[0], out[0]);
             });
  }
  void guard(Stream&, const Tensor& x, Tensor go, Tensor cleared) override {
    mirrored(device_, "guard", {x, go, cleared}, {go, cleared},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.guard(s, in[0], out[0], out[1]);
             });
  }
  void clip(Stream&, const Tensor& sums, const Tensor& order, double clip, const Tensor& scale,
            Tensor norm, Tensor factor) override {
    mirrored(device_, "clip", {sums, order, scale}, {norm, factor},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.clip(s, in[0], in[1], clip, in[2], out[0], out[1]);
             });
  }
  void adapt_scale(Stream&, const Tensor& norm, std::int64_t every, Tensor open, Tensor go,
                   Tensor scaling) override {
    mirrored(device_, "adapt_scale", {norm, open, scaling}, {open, go, scaling},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.adapt_scale(s, in[0], every, out[0], out[1], out[2]);
             });
  }
  void sgd(Stream&, const SgdStep& step, const Tensor& g, Tensor velocity, Tensor x) override {
    mirrored(device_, "sgd", {g, velocity, x, step.control}, {velocity, x},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.sgd(s, controlled(step, in[3]), in[0], out[0], out[1]);
             });
  }
  void adam(Stream&, const AdamStep& step, const Tensor& g, Tensor m, Tensor v, Tensor x) override {
    mirrored(device_, "adam", {g, m, v, x, step.control}, {m, v, x},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.adam(s, controlled(step, in[4]), in[0], out[0], out[1], out[2]);
             });
  }
  void rmsprop(Stream&, const RmsPropStep& step, const Tensor& g, Tensor v, Tensor velocity,
               Tensor x) override {
    mirrored(device_, "rmsprop", {g, v, velocity, x, step.control}, {v, velocity, x},
             [&](Stream& s, const Tensors& in, const Tensors& out) {
               inner_.rmsprop(s, controlled(step, in[4]), in[0], out[0], out[1], out[2]);
             });
  }

 private:
  template <typename Step>
  static Step controlled(Step step, const Tensor& control) {
    step.control = control;
    return step;
  }
  template <typename Outer, typename Inner>
  std::unique_ptr<Outer> over(std::unique_ptr<Inner> inner) const {
    return std::make_unique<Outer>(std::move(inner), device_);
  }

  Kernels& inner_;
  Device device_;
};

// The kernels that tests are about; see tests/test_device.h.
inline Kernels& kernels_under_test() {
  const TestDevice& chosen = test_device();
  if (!chosen.mirrored) return kernels(chosen.device);
  static MirroredKernels adapter(kernels(chosen.device), chosen.device);
  return adapter;
}

}  // namespace peal
