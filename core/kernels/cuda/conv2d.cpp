#include <algorithm>
#include <optional>

#include "core/base/error.h"
#include "core/kernels/cuda/bias.h"
#include "core/kernels/cuda/channels_last.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/cudnn.h"
#include "core/kernels/cuda/fold.h"
#include "core/kernels/cuda/narrow_wgrad.h"

namespace peal::cuda {
namespace {

constexpr std::size_t kScratchAlignment = 256;
constexpr std::int64_t kChannels = 8;  // of which tensor cores read a multiple

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
  CudnnConv2d(const Device& device, const Conv2dSpec& spec)
      : device_(device), spec_(spec), inner_(spec) {
    std::string why;
    const bool halves = spec.stored != DType::f32;
    // cuDNN's one deterministic f32 engine for a network's first layer is several times slower.
    if (spec.training && !halves) narrow_ = NarrowWgrad::of(spec);
    const auto last = [&](bool fold) { return find_plans(/*channels_last=*/true, fold, why); };
    const bool found = halves && ((can_fold(spec) && last(true)) || last(false));
    if (!found && !find_plans(/*last=*/false, /*fold=*/false, why)) {
      fail_input("conv2d", to_string(device), " has no engine of ", name_of(spec.stored), " for x ",
                 spec.x, ", weight ", spec.w, ", stride (", spec.stride[0], ", ", spec.stride[1],
                 "), padding (", spec.padding[0], ", ", spec.padding[1], "), dilation (",
                 spec.dilation[0], ", ", spec.dilation[1], "), groups ", spec.groups, ". ", why);
    }
    take_chosen();
    stage();
    arrange_scratch();
  }

  const Layout* y_layout() const override {
    return form_.channels_last ? channels_last(spec_.y(), spec_.stored) : nullptr;
  }
  const Layout* w_layout() const override { return w_layout_; }
  std::size_t scratch_bytes() const override { return scratch_bytes_; }

  void forward(Stream& s, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor scratch) override {
    const Tensor own_x = staged(s, x_, x, scratch), own_w = staged(s, w_, w, scratch);
    if (form_.fused && spec_.bias) {
      forward_->run(s, {&own_x, &own_w, &b, &y}, scratch);
    } else {
      forward_->run(s, {&own_x, &own_w, &y}, scratch);
    }
    if (form_.fused) return;
    const Shape shape = spec_.y();
    const std::int64_t pixels = shape[2] * shape[3];
    const BiasShape rows =
        form_.channels_last
            ? BiasShape{.records = shape[0] * pixels, .channels = shape[1], .inner = 1}
            : BiasShape{.records = shape[0], .channels = shape[1], .inner = pixels};
    add_bias(s, y, spec_.bias ? b.as<float>() : nullptr, rows, spec_.activation);
  }

  void backward_data(Stream& s, const Tensor& dy, const Tensor& w, Tensor dx,
                     Tensor scratch) override {
    const Tensor own_w = staged(s, w_, w, scratch), own_dx = x_.view(dx, start_of(scratch));
    backward_data_->run(s, {&dy, &own_w, &own_dx}, scratch);
    if (x_.out) x_.out->run(s, own_dx, dx, {});
  }

  void backward_weights(Stream& s, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor scratch) override {
    if (narrow_) {
      narrow_->run(s, x, dy, dw, db, scratch);
      return;
    }
    const Tensor own_x = staged(s, x_, x, scratch), own_dw = dw_.view(dw, start_of(scratch));
    backward_weights_->run(s, {&own_x, &dy, &own_dw}, scratch);
    if (dw_.out) dw_.out->run(s, own_dw, dw, {});
    if (spec_.bias) sum_bias(s, dy, db);
  }

 private:
  // Of all passes that are wanted, for tensors in that order. False, and why, where one is missing.
  bool find_plans(bool last, bool fold, std::string& why) {
    form_ = {.channels_last = last};
    folded_ = fold;
    inner_ = fold ? folded(spec_) : spec_;
    for (int& number : inner_.algorithms) number = 0;
    if (last && !fold && spec_.groups == 1) {
      const std::int64_t channels = (spec_.x[1] + kChannels - 1) / kChannels * kChannels;
      inner_.x[1] = inner_.w[1] = channels;
    }
    forward_ = nullptr;
    if (spec_.bias || spec_.activation != Activation::none) {
      // cuDNN fuses what it has an engine for; else bias and activation are a pass of their own.
      form_.fused = true;
      forward_ = find(ConvPass::forward, why);
      form_.fused = forward_ != nullptr;
    }
    if (forward_ == nullptr) forward_ = find(ConvPass::forward, why);
    if (forward_ == nullptr) return false;
    if (!spec_.training) return true;
    if (!narrow_) {
      backward_weights_ = find(ConvPass::backward_weights, why);
      if (backward_weights_ == nullptr && spec_.stored != DType::f32) {
        form_.dw = spec_.stored;
        backward_weights_ = find(ConvPass::backward_weights, why);
      }
      if (backward_weights_ == nullptr) return false;
    }
    if (!spec_.needs_dx) return true;
    backward_data_ = find(ConvPass::backward_data, why);
    return backward_data_ != nullptr;
  }

  CudnnPlan* find(ConvPass pass, std::string& why) const {
    return find_conv_plan(device_, inner_, pass, form_, why);
  }

  // The engines that the spec names in place of the first; these have decided what they compute.
  void take_chosen() {
    take_chosen(ConvPass::forward, forward_);
    take_chosen(ConvPass::backward_data, backward_data_);
    take_chosen(ConvPass::backward_weights, backward_weights_);
  }
  void take_chosen(ConvPass pass, CudnnPlan*& plan) {
    const int number = spec_.algorithm(pass);
    if (number == 0) return;
    inner_.algorithms[static_cast<int>(pass)] = number;
    std::string why = "it has one";
    if (plan != nullptr) plan = find(pass, why);
    if (plan == nullptr) {
      constexpr const char* kNames[kConvPasses] = {"forward", "backward_data", "backward_weights"};
      fail_input("conv2d", to_string(device_), " has no engine ", number, " for ",
                 kNames[static_cast<int>(pass)], " of x ", spec_.x, ", weight ", spec_.w, ": ", why,
                 "; a table of algorithms has named it");
    }
  }

  // What has to be copied, and how.
  void stage() {
    const bool last = form_.channels_last, filled = inner_.x[1] != spec_.x[1];
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
    x_.shape = inner_.x;
    x_.dtype = w_.dtype = t;
    w_.shape = dw_.shape = inner_.w;
    dw_.dtype = form_.dw;
    const bool given_last = spec_.x_layout != nullptr;
    if (folded_) {
      x_.in = fold_pictures(spec_, given_last);
      w_.in = fold_weights(spec_);
      dw_.out = unfold_weights(spec_);
      return;
    }
    if (filled || spec_.x_layout != (last ? channels_last(spec_.x, t) : nullptr)) {
      x_.in = reorder(spec_.x, given_last, t, inner_.x, last, t);
      x_.out = reorder(inner_.x, last, t, spec_.x, given_last, t);
    }
    const Layout* const turned = last ? channels_last(spec_.w, t) : nullptr;
    if (filled) w_.in = reorder(spec_.w, false, t, inner_.w, last, t);
    if (!filled) w_layout_ = turned;
    if (filled || turned != nullptr || form_.dw != DType::f32)
      dw_.out = reorder(inner_.w, last, form_.dw, spec_.w, false, DType::f32);
  }

  // The plans' workspace first, then copies.
  void arrange_scratch() {
    const auto up = [](std::size_t bytes) {
      return (bytes + kScratchAlignment - 1) / kScratchAlignment * kScratchAlignment;
    };
    std::size_t bytes = narrow_ ? narrow_->scratch_bytes() : 0;
    for (const CudnnPlan* plan : {forward_, backward_data_, backward_weights_}) {
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
    if (form_.channels_last) {
      rows.shape = {shape[0] * pixels, shape[1]};
      sums.shape = {1, shape[1]};
    } else {
      rows.shape = {shape[0], shape[1], pixels};
      sums.shape = {1, shape[1], 1};
    }
    peal::kernels(device_).reduce_sum(s, rows, 1.0f, sums);
  }

  Device device_;
  Conv2dSpec spec_;   // as asked for
  Conv2dSpec inner_;  // with channels filled up, or folded
  ConvForm form_;
  bool folded_ = false;
  CudnnPlan* forward_ = nullptr;
  CudnnPlan* backward_data_ = nullptr;
  CudnnPlan* backward_weights_ = nullptr;  // unless narrow_
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
