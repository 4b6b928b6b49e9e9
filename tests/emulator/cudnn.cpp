// The twin of cuDNN's part of core/kernels/cuda: convolutions and recurrent layers by the CPU's
// kernels. Attention of halves it has not, so that our own kernels do it.
#include "core/kernels/cuda/cudnn.h"

#include <algorithm>
#include <array>
#include <list>
#include <memory>
#include <vector>

#include "core/base/error.h"
#include "core/kernels/cuda/cudnn_rnn.h"
#include "core/kernels/layout.h"
#include "tests/emulator/emulator.h"
#include "tests/emulator/stored_values.h"

namespace peal::emulator {
namespace {

constexpr int kEngines = 2;
constexpr std::size_t kWorkspace = 1024;  // bytes, which are written

Tensor over(std::vector<float>& values, const Shape& shape, const Layout* layout = nullptr) {
  return {.data = reinterpret_cast<std::byte*>(values.data()), .shape = shape, .layout = layout};
}

Tensor over(std::vector<std::byte>& bytes) {
  return {
      .data = bytes.data(), .shape = {static_cast<std::int64_t>(bytes.size())}, .dtype = DType::u8};
}

// Values (d0, d1, d2, d3), in which d1 lies inmost where they are channels-last, and back.
std::vector<float> turned(const std::vector<float>& from, const Shape& shape, bool to_last) {
  std::vector<float> to(from.size());
  const auto [records, channels, pixels] = std::array{shape[0], shape[1], shape[2] * shape[3]};
  for (std::int64_t r = 0; r < records; ++r) {
    for (std::int64_t c = 0; c < channels; ++c) {
      for (std::int64_t p = 0; p < pixels; ++p) {
        const auto row_major = static_cast<std::size_t>((r * channels + c) * pixels + p),
                   last = static_cast<std::size_t>((r * pixels + p) * channels + c);
        (to_last ? to[last] : to[row_major]) = to_last ? from[row_major] : from[last];
      }
    }
  }
  return to;
}

class ConvPlan final : public cuda::CudnnPlan {
 public:
  ConvPlan(const Conv2dSpec& spec, ConvPass pass, const cuda::ConvForm& form)
      : spec_(spec), pass_(pass), form_(form) {
    Conv2dSpec plain = spec;
    plain.stored = DType::f32;
    plain.precision = Precision::f32;
    plain.x_layout = nullptr;
    plain.training = plain.needs_dx = true;
    plain.bias = false;
    plain.activation = Activation::none;
    conv_ = kernels(kCpu).make_conv2d(plain);
    scratch_.resize(conv_->scratch_bytes() + 64);
    blocked_ = reorder(spec.y(), nullptr, conv_->y_layout());
    unblocked_ = reorder(spec.y(), conv_->y_layout(), nullptr);
    weights_ = reorder(spec.w, nullptr, conv_->w_layout());
  }

  std::size_t scratch_bytes() const override { return kWorkspace; }

  void run(Stream& s, std::initializer_list<const Tensor*> tensors,
           const Tensor& scratch) override {
    std::vector<Tensor> of;
    for (const Tensor* tensor : tensors) {
      if (reinterpret_cast<std::uintptr_t>(tensor->data) % cuda::kCudnnAlignment != 0)
        fail_internal("convolution", "a tensor is not aligned");
      of.push_back(*tensor);
    }
    void* const workspace = scratch.data;
    enqueue(static_cast<cudaStream_t>(s.handle()), [this, of, workspace] {
      std::memset(workspace, 0xff, kWorkspace);
      if (pass_ == ConvPass::forward) forward(of);
      if (pass_ == ConvPass::backward_data) backward_data(of);
      if (pass_ == ConvPass::backward_weights) backward_weights(of);
    });
  }

 private:
  struct Placed {
    std::unique_ptr<Reorder> reorder;  // nullptr: they lie as they shall
    const Layout* layout;
  };
  static Placed reorder(const Shape& shape, const Layout* from, const Layout* to) {
    if (from == to) return {nullptr, to};
    return {kernels(kCpu).make_reorder(shape, {from, DType::f32}, {to, DType::f32}), to};
  }
  static std::vector<float> place(const Placed& how, std::vector<float> values, const Shape& shape,
                                  const Layout* from) {
    if (!how.reorder) return values;
    Tensor like{.shape = shape, .layout = how.layout};
    std::vector<float> placed(layout_bytes(like) / sizeof(float));
    std::vector<std::byte> scratch(how.reorder->scratch_bytes() + 64);
    Stream cpu;
    how.reorder->run(cpu, over(values, shape, from), over(placed, shape, how.layout),
                     over(scratch));
    return placed;
  }

  std::vector<float> read(const Tensor& x, const Shape& shape, DType type) const {
    std::vector<float> values(static_cast<std::size_t>(shape.numel()));
    read_stored(x.data, type, 0, values);
    return form_.channels_last ? turned(values, shape, false) : values;
  }
  void write(const std::vector<float>& values, const Tensor& x, const Shape& shape,
             DType type) const {
    write_stored(x.data, type, form_.channels_last ? turned(values, shape, true) : values);
  }

  std::vector<float> read_weight(const Tensor& w) const {
    return place(weights_, read(w, spec_.w, spec_.stored), spec_.w, nullptr);
  }
  std::vector<float> read_y(const Tensor& y) const {
    return place(blocked_, read(y, spec_.y(), spec_.stored), spec_.y(), nullptr);
  }

  void forward(const std::vector<Tensor>& of) {
    std::vector<float> x = read(of[0], spec_.x, spec_.stored), w = read_weight(of[1]);
    Tensor y{.shape = spec_.y(), .layout = conv_->y_layout()};
    std::vector<float> result(layout_bytes(y) / sizeof(float));
    y = over(result, y.shape, y.layout);
    Stream cpu;
    conv_->forward(cpu, over(x, spec_.x), over(w, spec_.w, conv_->w_layout()), {}, y,
                   over(scratch_));
    result = place(unblocked_, result, y.shape, y.layout);
    if (form_.fused) finish(result, spec_.bias ? of[2].as<float>() : nullptr);
    write(result, of.back(), y.shape, spec_.stored);
  }

  void finish(std::vector<float>& y, const float* b) const {
    const Shape shape = spec_.y();
    const std::int64_t channels = shape[1], pixels = shape[2] * shape[3];
    for (std::int64_t i = 0; i < shape.numel(); ++i) {
      float& at = y[static_cast<std::size_t>(i)];
      if (b != nullptr) at += b[i / pixels % channels];
      if (spec_.activation == Activation::relu) at = std::max(at, 0.0f);
    }
  }

  void backward_data(const std::vector<Tensor>& of) {
    std::vector<float> dy = read_y(of[0]), w = read_weight(of[1]),
                       dx(static_cast<std::size_t>(spec_.x.numel()));
    Stream cpu;
    conv_->backward_data(cpu, over(dy, spec_.y(), conv_->y_layout()),
                         over(w, spec_.w, conv_->w_layout()), over(dx, spec_.x), over(scratch_));
    write(dx, of[2], spec_.x, spec_.stored);
  }

  void backward_weights(const std::vector<Tensor>& of) {
    std::vector<float> x = read(of[0], spec_.x, spec_.stored), dy = read_y(of[1]),
                       dw(static_cast<std::size_t>(spec_.w.numel()));
    Stream cpu;
    conv_->backward_weights(cpu, over(x, spec_.x), over(dy, spec_.y(), conv_->y_layout()),
                            over(dw, spec_.w), {}, over(scratch_));
    write(dw, of[2], spec_.w, form_.dw);
  }

  Conv2dSpec spec_;
  ConvPass pass_;
  cuda::ConvForm form_;
  std::unique_ptr<Conv2d> conv_;
  std::vector<std::byte> scratch_;
  Placed blocked_, unblocked_, weights_;
};

// Our own CPU kernels in a stream's order.
class CpuRecurrent final : public Recurrent {
 public:
  explicit CpuRecurrent(const RecurrentSpec& spec)
      : inner_(kernels(kCpu).make_recurrent(spec)), scratch_(inner_->scratch_bytes() + 64) {}

  std::size_t saved_bytes() const override { return inner_->saved_bytes(); }
  std::size_t scratch_bytes() const override { return 0; }
  void forward(Stream& s, const Tensor& x, const Tensor& lengths, const State& first,
               std::span<const Tensor> weights, Tensor y, State last, Tensor saved,
               Tensor) override {
    enqueue(static_cast<cudaStream_t>(s.handle()),
            [=, this, weights = std::vector(weights.begin(), weights.end())] {
              Stream cpu;
              inner_->forward(cpu, x, lengths, first, weights, y, last, saved, over(scratch_));
            });
  }
  void backward(Stream& s, const Tensor& x, const Tensor& lengths, const State& first,
                std::span<const Tensor> weights, const Tensor& y, const Tensor& dy,
                const State& dlast, const Tensor& saved, Tensor dx, State dfirst,
                std::span<const Tensor> dweights, Tensor) override {
    enqueue(static_cast<cudaStream_t>(s.handle()),
            [=, this, weights = std::vector(weights.begin(), weights.end()),
             dweights = std::vector(dweights.begin(), dweights.end())] {
              Stream cpu;
              inner_->backward(cpu, x, lengths, first, weights, y, dy, dlast, saved, dx, dfirst,
                               dweights, over(scratch_));
            });
  }

 private:
  std::unique_ptr<Recurrent> inner_;
  std::vector<std::byte> scratch_;
};

}  // namespace
}  // namespace peal::emulator

namespace peal::cuda {

// Of f32 it fuses a bias alone, without an activation, so that our own kernel behind such a
// convolution is run as well.
CudnnPlan* find_conv_plan(const Device&, const Conv2dSpec& spec, ConvPass pass,
                          const ConvForm& form, std::string& why) {
  static auto& plans = *new std::list<emulator::ConvPlan>;
  const bool fuses = spec.stored != DType::f32 || spec.activation == Activation::none;
  if (spec.algorithm(pass) >= emulator::kEngines || (form.fused && !fuses)) {
    why = "the emulated GPU has no such engine";
    return nullptr;
  }
  return &plans.emplace_back(spec, pass, form);
}

CudnnPlan* find_attention_plan(const Device&, const AttentionSpec&, bool, std::string& why) {
  why = "the emulated GPU has no such engine";
  return nullptr;
}

std::string cudnn_version(const Device&) {
  return "emulated";
}

std::unique_ptr<Recurrent> make_cudnn_recurrent(const Device&, const RecurrentSpec& spec) {
  return std::make_unique<emulator::CpuRecurrent>(spec);
}

}  // namespace peal::cuda
