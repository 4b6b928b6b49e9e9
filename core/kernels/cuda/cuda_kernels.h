// The CUDA backend, and its entry. Families of kernels live in files of their own beside this
// header; no_cuda.cpp is its twin where Peal is built without CUDA or without cuDNN.
#pragma once

#include "core/kernels/kernels.h"

namespace peal::cuda {

Kernels& kernels(const Device& device);  // throws Error(input) "built without CUDA" in the twin

class CudaKernels final : public Kernels {
 public:
  // Prepared kernels are made for this device; all others run on their stream's.
  explicit CudaKernels(const Device& device) : device_(device) {}

  // Code is for GPUs of compute capability 8.0 and later, which have both half types.
  bool has_precision(Precision) const override { return true; }
  std::int64_t padded_columns(std::int64_t rows, std::int64_t columns, DType stored) const override;
  std::unique_ptr<Conv2d> make_conv2d(const Conv2dSpec& spec) override;
  std::unique_ptr<Pool2d> make_pool2d(const Pool2dSpec& spec) override;
  std::unique_ptr<ConvReluPool> make_conv_relu_pool(const Conv2dSpec& conv,
                                                    const Pool2dSpec& pool) override;
  std::unique_ptr<Matmul> make_matmul(const MatmulSpec& spec) override;
  std::string algorithm_library() const override;
  std::unique_ptr<Softmax> make_softmax(std::int64_t rows, std::int64_t columns, bool log) override;
  std::unique_ptr<LayerNorm> make_layer_norm(std::int64_t rows, std::int64_t columns, float epsilon,
                                             DType stored) override;
  std::unique_ptr<Recurrent> make_recurrent(const RecurrentSpec& spec) override;
  std::unique_ptr<Attention> make_attention(const AttentionSpec& spec) override;
  std::unique_ptr<AttentionStep> make_attention_step(const AttentionStepSpec& spec) override;
  std::unique_ptr<Reorder> make_reorder(const Shape& shape, const Form& from,
                                        const Form& to) override;
  void fill(Stream& s, Tensor x, float value) override;
  void copy(Stream& s, const Tensor& from, Tensor to) override;
  void set_values(Stream& s, std::span<const std::int64_t> values, Tensor to) override;
  void activation(Stream& s, Activation kind, float slope, const Tensor& x, Tensor y) override;
  void activation_backward(Stream& s, Activation kind, float slope, const Tensor& x,
                           const Tensor& y, const Tensor& dy, Tensor dx) override;
  void scale(Stream& s, float factor, const Tensor& x, Tensor y) override;
  void accumulate(Stream& s, const Tensor& x, Tensor y) override;
  void binary(Stream& s, BinaryOp op, const Tensor& x, const Tensor& y, Tensor z) override;
  void dropout(Stream& s, const Tensor& draws, std::uint64_t site, float p, const Tensor& x,
               Tensor y) override;
  void transpose(Stream& s, const Tensor& x, std::span<const int> perm, Tensor y) override;
  void copy_box(Stream& s, const Tensor& x, std::span<const std::int64_t> x_start, Tensor y,
                std::span<const std::int64_t> y_start, const Shape& extent) override;
  void reduce_sum(Stream& s, const Tensor& x, float factor, Tensor y) override;
  void broadcast(Stream& s, const Tensor& x, float factor, Tensor y) override;
  void batch_norm_statistics(Stream& s, const Tensor& x, const Tensor& weight, Tensor mean,
                             Tensor variance, Tensor contribution) override;
  void batch_norm(Stream& s, const Tensor& x, const Tensor& mean, const Tensor& variance,
                  const Tensor& gamma, const Tensor& beta, float epsilon, const Tensor& residual,
                  Activation activation, Tensor y) override;
  void batch_norm_backward(Stream& s, const Tensor& x, const Tensor& weight, const Tensor& mean,
                           const Tensor& variance, const Tensor& gamma, const Tensor& beta,
                           float epsilon, const Tensor& y, Activation activation, const Tensor& dy,
                           const Tensor& more_dy, Tensor dx, Tensor dgamma, Tensor dbeta,
                           Tensor dresidual) override;
  void batch_norm_running(Stream& s, const Tensor& sums, float momentum, Tensor running_mean,
                          Tensor running_variance) override;
  void embedding(Stream& s, const Tensor& ids, const Tensor& table, Tensor y) override;
  void embedding_backward(Stream& s, const Tensor& ids, const Tensor& dy, bool adds, Tensor dtable,
                          Tensor scratch) override;
  void softmax_cross_entropy(Stream& s, const Tensor& logits, const Tensor& labels,
                             const Tensor& weight, Tensor saved, Tensor loss) override;
  void softmax_cross_entropy_backward(Stream& s, const Tensor& logits, const Tensor& saved,
                                      const Tensor& labels, const Tensor& weight,
                                      const Tensor& dloss, Tensor dlogits) override;
  void softmax_cross_entropy_with_gradient(Stream& s, const Tensor& logits, const Tensor& labels,
                                           const Tensor& weight, const Tensor& dloss, Tensor saved,
                                           Tensor loss, Tensor dlogits) override;
  void binary_cross_entropy(Stream& s, const Tensor& logits, const Tensor& targets,
                            const Tensor& weight, Tensor loss) override;
  void binary_cross_entropy_backward(Stream& s, const Tensor& logits, const Tensor& targets,
                                     const Tensor& weight, const Tensor& dloss,
                                     Tensor dlogits) override;
  void squared_error(Stream& s, const Tensor& x, const Tensor& targets, const Tensor& weight,
                     Tensor loss) override;
  void squared_error_backward(Stream& s, const Tensor& x, const Tensor& targets,
                              const Tensor& weight, const Tensor& dloss, Tensor dx) override;
  void count_correct(Stream& s, const Tensor& logits, const Tensor& labels, const Tensor& weight,
                     Tensor count) override;
  void count_correct_binary(Stream& s, const Tensor& logits, const Tensor& targets,
                            const Tensor& weight, Tensor count) override;
  void low_rank_project(Stream& s, const Tensor& g, const Tensor& q, Tensor m, Tensor p) override;
  void low_rank_project_back(Stream& s, const Tensor& m, const Tensor& p, Tensor q) override;
  void low_rank_expand(Stream& s, const Tensor& p, const Tensor& q, Tensor y) override;
  void subtract_scaled(Stream& s, float factor, const Tensor& y, Tensor m) override;
  void orthonormalize(Stream& s, const RandomKey& key, Tensor p) override;
  void sum_squares(Stream& s, const Tensor& x, Tensor sums) override;
  void guard(Stream& s, const Tensor& x, Tensor go, Tensor cleared) override;
  void clip(Stream& s, const Tensor& sums, const Tensor& order, double clip, const Tensor& scale,
            Tensor norm, Tensor factor) override;
  void adapt_scale(Stream& s, const Tensor& norm, std::int64_t every, Tensor open, Tensor go,
                   Tensor scaling) override;
  void sgd(Stream& s, const SgdStep& step, const Tensor& g, Tensor velocity, Tensor x) override;
  void adam(Stream& s, const AdamStep& step, const Tensor& g, Tensor m, Tensor v,
            Tensor x) override;
  void rmsprop(Stream& s, const RmsPropStep& step, const Tensor& g, Tensor v, Tensor velocity,
               Tensor x) override;

 private:
  // The gradient before an activation that what was added goes through, too.
  void give_dresidual(Stream& s, bool relu, const Tensor& y, const Tensor& dy,
                      const Tensor& more_dy, Tensor dresidual);
  Device device_;
};

}  // namespace peal::cuda
