#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/kernels/cuda/bias.h"
#include "core/kernels/cuda/channels_last.h"
#include "core/kernels/cuda/conv_plans.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/fold.h"
#include "core/kernels/cuda/narrow_wgrad.h"

namespace peal::cuda {
namespace {

constexpr std::size_t kScratchAlignment = 256;

// A copy of a tensor in scratch memory, in the order and of the type that cuDNN takes.
struct Staged {
  Shape shape;
  DType dtype = DType::f32;
  std::unique_ptr<Reorder> in, out;  // those that are wanted; neither: the tensor as it is
  std::size_t at = 0;

  bool used() const { return in != nullptr || out != nullptr; }
  std::size_t bytes() const {
    return used() ? static_cast<std::size_t>(shape.numel()) * size_of(dtype) : 0;
  }
  Tensor view(const Tensor& x, std::byte* own) const {
    if (!used()) return x;
    Tensor copy = x;
    copy.data = own + at;
    copy.shape = shape;
    copy.dtype = dtype;
    copy.layout = nullptr;
    return copy;
  }
};

// f32 tensors are row-major. Halves lie channels-last where cuDNN has engines for that, and so does
// y, and weights are wanted so; an x that does not and a weight's gradient are copied. There
// channels are filled up with zeros to a multiple of 8, or what has few is folded (fold.h), weights
// as well.
class CudnnConv2d final : public Conv2d {
 public:
  CudnnConv2d(const Device& device, const Conv2dSpec& spec) : device_(device), spec_(spec) {
    // cuDNN's one deterministic f32 engine for a network's first layer is several times slower.
    if (spec.training && spec.stored == DType::f32) narrow_ = NarrowWgrad::of(spec);
    choose_plans();
    stage();
    arrange_scratch();
  }

  const Layout* y_layout() const override {
    return plans_.form.channels_last ? channels_last(spec_.y(), spec_.stored) : nullptr;
  }
  const Layout* w_layout() const override { return w_layout_; }
  std::size_t scratch_bytes() const override { return scratch_bytes_; }

  void forward(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor scratch) override {
    const Tensor own_x = staged(s, x_, x, scratch), own_w = staged(s, w_, w, scratch);
    if (plans_.form.fused && spec_.bias) {
      plans_.forward->run(s, {&own_x, &own_w, &b, &y}, scratch);
    } else {
      plans_.forward->run(s, {&own_x, &own_w, &y}, scratch);
    }
    if (plans_.form.fused) return;
    const Shape shape = spec_.y();
    const std::int64_t pixels = shape[2] * shape[3];
    const BiasShape rows =
        plans_.form.channels_last
            ? BiasShape{.records = shape[0] * pixels, .channels = shape[1], .inner = 1}
            : BiasShape{.records = shape[0], .channels = shape[1], .inner = pixels};
    add_bias(s, y, spec_.bias ? b.as<float>() : nullptr, rows, spec_.activation);
  }

  void backward_data(Stream& s, const Tensor& dy, const Tensor& w, Tensor dx,
                     Tensor scratch) override {
    const Tensor own_w = staged(s, w_, w, scratch), own_dx = x_.view(dx, start_of(scratch));
    plans_.backward_data->run(s, {&dy, &own_w, &own_dx}, scratch);
    if (x_.out) x_.out->run(s, own_dx, dx, {});
  }

  void backward_weights(Stream& s, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor scratch) override {
    if (narrow_) {
      narrow_->run(s, x, dy, dw, db, scratch);
      return;
    }
    const Tensor own_x = staged(s, x_, x, scratch), own_dw = dw_.view(dw, start_of(scratch));
    plans_.backward_weights->run(s, {&own_x, &dy, &own_dw}, scratch);
    if (dw_.out) dw_.out->run(s, own_dw, dw, {});
    if (spec_.bias) sum_bias(s, dy, db);
  }

 private:
  void choose_plans() {
    const FindConvPlan find = [&](const Conv2dSpec& inner, ConvPass pass, const ConvForm& form,
                                  std::string& why) {
      return find_conv_plan(device_, inner, pass, form, why);
    };
    std::string why;
    const auto found = choose_conv_plans(spec_, /*own_weights=*/narrow_.has_value(), find, why);
    if (!found) {
      fail_input("conv2d", to_string(device_), " has no engine of ", name_of(spec_.stored),
                 " for x ", spec_.x, ", weight ", spec_.w, ", stride (", spec_.stride[0], ", ",
                 spec_.stride[1], "), padding (", spec_.padding[0], ", ", spec_.padding[1],
                 "), dilation (", spec_.dilation[0], ", ", spec_.dilation[1], "), groups ",
                 spec_.groups, ". ", why);
    }
    plans_ = *found;
  }

  // What has to be copied, and how.
  void stage() {
    const bool last = plans_.form.channels_last, filled = plans_.inner.x[1] != spec_.x[1];
    const auto reorder = [&](const Shape& from, bool from_last, DType from_type, const Shape& to,
                             bool to_last, DType to_type) {
      if (from[1] != to[1]) return resize_channels(from, to, from_last, to_last);
      const auto form = [&](bool is_last, DType type) {
        return Form{is_last ? channels_last(from, type) : nullptr, type};
      };
      return peal::kernels(device_).make_reorder(from, form(from_last, from_type),
                                                 form(to_last, to_type));
    };
    const DType t = spec_.stored;
    x_.shape = plans_.inner.x;
    x_.dtype = w_.dtype = t;
    w_.shape = dw_.shape = plans_.inner.w;
    dw_.dtype = plans_.form.dw;
    const bool given_last = spec_.x_layout != nullptr;
    if (plans_.folded) {
      x_.in = fold_pictures(spec_, given_last);
      w_.in = fold_weights(spec_);
      dw_.out = unfold_weights(spec_);
      return;
    }
    if (filled || spec_.x_layout != (last ? channels_last(spec_.x, t) : nullptr)) {
      x_.in = reorder(spec_.x, given_last, t, plans_.inner.x, last, t);
      x_.out = reorder(plans_.inner.x, last, t, spec_.x, given_last, t);
    }
    const Layout* const turned = last ? channels_last(spec_.w, t) : nullptr;
    if (filled) w_.in = reorder(spec_.w, false, t, plans_.inner.w, last, t);
    if (!filled) w_layout_ = turned;
    if (filled || turned != nullptr || plans_.form.dw != DType::f32)
      dw_.out = reorder(plans_.inner.w, last, plans_.form.dw, spec_.w, false, DType::f32);
  }

  // The plans' workspace first, then copies.
  void arrange_scratch() {
    const auto up = [](std::size_t bytes) {
      return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    };
    std::size_t bytes = narrow_ ? narrow_->scratch_bytes() : 0;
    for (const CudnnPlan* plan : {plans_.forward, plans_.backward_data, plans_.backward_weights}) {
      if (plan != nullptr) bytes = std::max(bytes, plan->scratch_bytes());
    }
    scratch_bytes_ = bytes;
    for (Staged* copy : {&x_, &w_, &dw_}) {
      if (!copy->used()) continue;
      copy->at = up(scratch_bytes_);
      scratch_bytes_ = copy->at + up(copy->bytes());
    }
    if (scratch_bytes_ > bytes) scratch_bytes_ += kScratchAlignment;
  }

  static std::byte* start_of(const Tensor& scratch) {
    const auto start = reinterpret_cast<std::uintptr_t>(scratch.data);
    return scratch.as<std::byte>() +
           (kScratchAlignment - start % kScratchAlignment) % kScratchAlignment;
  }

  static Tensor staged(Stream& s, const Staged& how, const Tensor& x, const Tensor& scratch) {
    const Tensor own = how.view(x, start_of(scratch));
    if (how.in) how.in->run(s, x, own, {});
    return own;
  }

  void sum_bias(Stream& s, const Tensor& dy, const Tensor& db) const {
    const Shape shape = spec_.y();
    const std::int64_t pixels = shape[2] * shape[3];
    Tensor rows = dy, sums = db;
    rows.layout = nullptr;
    if (plans_.form.channels_last) {
      rows.shape = {shape[0] * pixels, shape[1]};
      sums.shape = {1, shape[1]};
    } else {
      rows.shape = {shape[0], shape[1], pixels};
      sums.shape = {1, shape[1], 1};
    }
    peal::kernels(device_).reduce_sum(s, rows, 1.0f, sums);
  }

  Device device_;
  Conv2dSpec spec_;
  ConvPlans plans_;
  std::optional<NarrowWgrad> narrow_;
  Staged x_, w_, dw_;  // x_ also for dx
  const Layout* w_layout_ = nullptr;
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
