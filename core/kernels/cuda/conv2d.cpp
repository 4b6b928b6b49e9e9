#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/kernels/cuda/bias.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/cudnn.h"
#include "core/kernels/cuda/narrow_wgrad.h"

namespace peal::cuda {
namespace {

// x (1, channels, 1) or (records, channels, pixels), as reduce_sum takes the gradient of a bias.
Tensor by_channel(const Tensor& x, std::int64_t records, std::int64_t channels,
                  std::int64_t pixels) {
  Tensor view = x;
  view.shape = {records, channels, pixels};
  return view;
}

class CudnnConv2d final : public Conv2d {
 public:
  CudnnConv2d(const Device& device, const Conv2dSpec& spec) : device_(device), spec_(spec) {
    if (spec.x_layout != nullptr)
      fail_internal("make_conv2d", "x is row-major on CUDA; this one is not");
    prepare_forward();
    // cuDNN's one deterministic f32 engine for a network's first layer is several times slower.
    if (spec.training) narrow_ = NarrowWgrad::of(spec);
    if (narrow_) scratch_bytes_ = narrow_->scratch_bytes();
    if (spec.training && !narrow_) backward_weights_ = require(ConvPass::backward_weights);
    if (spec.training && spec.needs_dx) backward_data_ = require(ConvPass::backward_data);
    for (const ConvPlan* plan : {forward_, backward_data_, backward_weights_}) {
      if (plan != nullptr) scratch_bytes_ = std::max(scratch_bytes_, plan->scratch_bytes());
    }
  }

  const Layout* y_layout() const override { return nullptr; }
  std::size_t scratch_bytes() const override { return scratch_bytes_; }

  void forward(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor scratch) override {
    if (fused_ && spec_.bias) {
      forward_->run(s, {&x, &w, &b, &y}, scratch);
    } else {
      forward_->run(s, {&x, &w, &y}, scratch);
    }
    if (fused_) return;
    const Shape shape = spec_.y();
    add_bias(s, y, spec_.bias ? b.as<float>() : nullptr,
             {.records = shape[0], .channels = shape[1], .inner = shape[2] * shape[3]},
             spec_.activation);
  }

  void backward_data(Stream& s, const Tensor& dy, const Tensor& w, Tensor dx,
                     Tensor scratch) override {
    backward_data_->run(s, {&dy, &w, &dx}, scratch);
  }

  void backward_weights(Stream& s, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor scratch) override {
    if (narrow_) {
      narrow_->run(s, x, dy, dw, db, scratch);
      return;
    }
    backward_weights_->run(s, {&x, &dy, &dw}, scratch);
    if (!spec_.bias) return;
    const Shape shape = spec_.y();
    peal::kernels(device_).reduce_sum(s, by_channel(dy, shape[0], shape[1], shape[2] * shape[3]),
                                      1.0f, by_channel(db, 1, shape[1], 1));
  }

 private:
  // cuDNN fuses what it has an engine for; else bias and activation are a pass of their own.
  void prepare_forward() {
    std::string why;
    if (spec_.bias || spec_.activation != Activation::none) {
      forward_ = find_conv_plan(device_, spec_, ConvPass::forward_fused, why);
      fused_ = forward_ != nullptr;
    }
    if (forward_ == nullptr) forward_ = require(ConvPass::forward);
  }

  ConvPlan* require(ConvPass pass) const {
    std::string why;
    if (ConvPlan* plan = find_conv_plan(device_, spec_, pass, why)) return plan;
    const Conv2dSpec& c = spec_;
    fail_input("conv2d", to_string(device_), " has no deterministic f32 engine for x ", c.x,
               ", weight ", c.w, ", stride (", c.stride[0], ", ", c.stride[1], "), padding (",
               c.padding[0], ", ", c.padding[1], "), dilation (", c.dilation[0], ", ",
               c.dilation[1], "), groups ", c.groups, ". ", why);
  }

  Device device_;
  Conv2dSpec spec_;
  bool fused_ = false;
  ConvPlan* forward_ = nullptr;
  ConvPlan* backward_data_ = nullptr;
  ConvPlan* backward_weights_ = nullptr;  // unless narrow_
  std::optional<NarrowWgrad> narrow_;
  std::size_t scratch_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Conv2d> CudaKernels::make_conv2d(const Conv2dSpec& spec) {
  return std::make_unique<CudnnConv2d>(device_, spec);
}

// No fused form: each part is near the memory's speed, and a convolution's output fits into it.
std::unique_ptr<ConvReluPool> CudaKernels::make_conv_relu_pool(const Conv2dSpec&,
                                                               const Pool2dSpec&) {
  return nullptr;
}

}  // namespace peal::cuda
