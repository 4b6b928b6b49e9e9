#include <algorithm>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"

namespace peal::cpu {
namespace {

class OneDnnLayerNorm final : public LayerNorm {
 public:
  OneDnnLayerNorm(Kernels& kernels, std::int64_t rows, std::int64_t columns, float epsilon,
                  DType stored)
      : kernels_(kernels) {
    const MemoryDesc data = row_major({rows, columns}, data_type(stored));
    const MemoryDesc statistics = row_major({rows});
    const MemoryDesc factors = row_major({columns});
    const auto flags = dnnl::normalization_flags::use_scale | dnnl::normalization_flags::use_shift;
    const dnnl::layer_normalization_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, data, statistics, epsilon, flags}, onednn_attributes(),
        onednn_engine());
    prepare_forward(forward, data, statistics, factors);
    const dnnl::layer_normalization_backward::primitive_desc backward(
        {dnnl::prop_kind::backward, data, data, statistics, epsilon, flags}, onednn_attributes(),
        onednn_engine(), forward);
    prepare_backward(backward, data, statistics, factors);
  }

  std::size_t scratch_bytes() const override {
    return std::max(forward_.scratch_bytes(), backward_.scratch_bytes());
  }
  bool adds_in_place() const override { return false; }

  void forward(Stream&, const Tensor& x, const Tensor& gamma, const Tensor& beta, Tensor y,
               Tensor mean, Tensor variance, Tensor scratch) override {
    forward_.run({&x, &gamma, &beta, &y, &mean, &variance}, scratch);
  }

  void backward(Stream& s, const Tensor& x, const Tensor& gamma, const Tensor& mean,
                const Tensor& variance, const Tensor& dy, const Tensor& more_dx, Tensor dx,
                Tensor dgamma, Tensor dbeta, Tensor scratch) override {
    backward_.run({&x, &gamma, &mean, &variance, &dy, &dx, &dgamma, &dbeta}, scratch);
    if (!more_dx.empty()) kernels_.accumulate(s, more_dx, dx);
  }

 private:
  void prepare_forward(const dnnl::layer_normalization_forward::primitive_desc& pd,
                       const MemoryDesc& data, const MemoryDesc& statistics,
                       const MemoryDesc& factors) {
    const auto x = forward_.bound(data);
    const auto gamma = forward_.bound(factors), beta = forward_.bound(factors);
    const auto y = forward_.bound(data);
    const auto mean = forward_.bound(statistics), variance = forward_.bound(statistics);
    forward_.add(dnnl::layer_normalization_forward(pd), pd.scratchpad_desc(),
                 {{DNNL_ARG_SRC, x},
                  {DNNL_ARG_SCALE, gamma},
                  {DNNL_ARG_SHIFT, beta},
                  {DNNL_ARG_DST, y},
                  {DNNL_ARG_MEAN, mean},
                  {DNNL_ARG_VARIANCE, variance}});
  }

  void prepare_backward(const dnnl::layer_normalization_backward::primitive_desc& pd,
                        const MemoryDesc& data, const MemoryDesc& statistics,
                        const MemoryDesc& factors) {
    const auto x = backward_.bound(data), gamma = backward_.bound(factors);
    const auto mean = backward_.bound(statistics), variance = backward_.bound(statistics);
    const auto dy = backward_.bound(data), dx = backward_.bound(data);
    const auto dgamma = backward_.bound(factors), dbeta = backward_.bound(factors);
    backward_.add(dnnl::layer_normalization_backward(pd), pd.scratchpad_desc(),
                  {{DNNL_ARG_SRC, x},
                   {DNNL_ARG_SCALE, gamma},
                   {DNNL_ARG_SHIFT, gamma},  // asked for, never read
                   {DNNL_ARG_MEAN, mean},
                   {DNNL_ARG_VARIANCE, variance},
                   {DNNL_ARG_DIFF_DST, dy},
                   {DNNL_ARG_DIFF_SRC, dx},
                   {DNNL_ARG_DIFF_SCALE, dgamma},
                   {DNNL_ARG_DIFF_SHIFT, dbeta}});
  }

  Kernels& kernels_;
  Program forward_{"layer_norm"};
  Program backward_{"layer_norm backward"};
};

}  // namespace

std::unique_ptr<LayerNorm> CpuKernels::make_layer_norm(std::int64_t rows, std::int64_t columns,
                                                       float epsilon, DType stored) {
  return with_onednn("make_layer_norm", [&] {
    return std::make_unique<OneDnnLayerNorm>(*this, rows, columns, epsilon, stored);
  });
}

}  // namespace peal::cpu
