#include <algorithm>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"
#include "core/kernels/cpu/winograd.h"

namespace peal::cpu {
namespace {

using dnnl::memory;

memory::dims pair(const std::int64_t (&values)[2]) {
  return {values[0], values[1]};
}

// oneDNN counts dilation from 0 and wants (groups, O/groups, C/groups, KH, KW).
memory::dims dilation_of(const Conv2dSpec& spec) {
  return {spec.dilation[0] - 1, spec.dilation[1] - 1};
}

Shape weights_shape(const Conv2dSpec& spec) {
  const Shape& w = spec.w;
  if (spec.groups == 1) return w;
  return {spec.groups, w[0] / spec.groups, w[1], w[2], w[3]};
}

// A depthwise convolution, or one of few channels, uses each element too few times to earn back the
// pass that rounds it.
bool rounds(const Conv2dSpec& spec) {
  constexpr std::int64_t kFewest = 16;
  return spec.stored == DType::bf16 || (spec.precision == Precision::bf16 && spec.w[1] >= kFewest &&
                                        spec.w[0] / spec.groups >= kFewest);
}

constexpr std::size_t kMostScratch = std::size_t{512} << 20;

// make(algorithm, allow_empty) for oneDNN's own Winograd where it suits, this CPU has it (AVX-512)
// and the tiles of a batch do not take too much memory, else for the direct one.
template <class Make>
auto choose_algorithm(const Conv2dSpec& spec, Make make) {
  if (suits_winograd(spec) && !rounds(spec)) {
    auto chosen = make(dnnl::algorithm::convolution_winograd, /*allow_empty=*/true);
    if (chosen && chosen.scratchpad_desc().get_size() <= kMostScratch) return chosen;
  }
  return make(dnnl::algorithm::convolution_direct, /*allow_empty=*/false);
}

class OneDnnConv2d final : public Conv2d {
 public:
  explicit OneDnnConv2d(const Conv2dSpec& spec)
      : spec_(spec),
        stored_(data_type(spec.stored)),
        operands_(rounds(spec) ? DataType::bf16 : DataType::f32),
        y_shape_(spec.y()),
        x_(describe(spec.x, {spec.x_layout, spec.stored})),
        w_(row_major(weights_shape(spec), stored_)),
        dw_(row_major(weights_shape(spec))),
        bias_(spec.bias ? row_major({spec.w[0]}) : MemoryDesc()),
        forward_pd_(choose_forward()),
        y_layout_(choose_y_layout()) {
    prepare_forward();
    if (spec.training) prepare_backward_weights();
    if (spec.training && spec.needs_dx) prepare_backward_data();
  }

  const Layout* y_layout() const override { return y_layout_; }

  std::size_t scratch_bytes() const override {
    return std::max({forward_.scratch_bytes(), backward_data_.scratch_bytes(),
                     backward_weights_.scratch_bytes()});
  }

  void forward(Stream&, const Tensor& x, const Tensor& w, const Tensor& b, Tensor y,
               Tensor scratch) override {
    if (spec_.bias) {
      forward_.run({&x, &w, &y, &b}, scratch);
    } else {
      forward_.run({&x, &w, &y}, scratch);
    }
  }

  void backward_data(Stream&, const Tensor& dy, const Tensor& w, Tensor dx,
                     Tensor scratch) override {
    backward_data_.run({&dy, &w, &dx}, scratch);
  }

  void backward_weights(Stream&, const Tensor& x, const Tensor& dy, Tensor dw, Tensor db,
                        Tensor scratch) override {
    if (spec_.bias) {
      backward_weights_.run({&x, &dy, &dw, &db}, scratch);
    } else {
      backward_weights_.run({&x, &dy, &dw}, scratch);
    }
  }

 private:
  dnnl::convolution_forward::primitive_desc choose_forward() const {
    const auto kind =
        spec_.training ? dnnl::prop_kind::forward_training : dnnl::prop_kind::forward_inference;
    return choose_algorithm(spec_, [&](dnnl::algorithm algorithm, bool allow_empty) {
      const dnnl::convolution_forward::desc desc(
          kind, algorithm, any_layout(spec_.x, operands_),
          any_layout(weights_shape(spec_), operands_), bias_, any_layout(y_shape_, stored_),
          pair(spec_.stride), dilation_of(spec_), pair(spec_.padding), pair(spec_.padding));
      return dnnl::convolution_forward::primitive_desc(
          desc, onednn_attributes(spec_.activation == Activation::relu), onednn_engine(),
          allow_empty);
    });
  }

  // A layout that rounds channels up would show its padding to pointwise kernels.
  const Layout* choose_y_layout() const {
    const MemoryDesc y = forward_pd_.dst_desc();
    if (y.get_size() != row_major(y_shape_, stored_).get_size()) return nullptr;
    const Layout* layout = intern_layout(y_shape_, y);
    return layout == nullptr || layout->channel_block == 0 ? nullptr : layout;
  }

  MemoryDesc y_desc() const { return describe(y_shape_, {y_layout_, spec_.stored}); }

  void prepare_forward() {
    const auto& pd = forward_pd_;
    const auto x = forward_.bound(x_), w = forward_.bound(w_), y = forward_.bound(y_desc());
    const auto x_in = forward_.converted(x, pd.src_desc());
    const auto w_in = forward_.converted(w, pd.weights_desc());
    const auto y_out = forward_.staged(y, pd.dst_desc());
    if (spec_.bias) {
      const auto b = forward_.bound(bias_);
      forward_.add(dnnl::convolution_forward(pd), pd.scratchpad_desc(),
                   {{DNNL_ARG_SRC, x_in},
                    {DNNL_ARG_WEIGHTS, w_in},
                    {DNNL_ARG_BIAS, b},
                    {DNNL_ARG_DST, y_out}});
    } else {
      forward_.add(dnnl::convolution_forward(pd), pd.scratchpad_desc(),
                   {{DNNL_ARG_SRC, x_in}, {DNNL_ARG_WEIGHTS, w_in}, {DNNL_ARG_DST, y_out}});
    }
    forward_.convert(y_out, y);
  }

  void prepare_backward_data() {
    const auto pd = choose_algorithm(spec_, [&](dnnl::algorithm algorithm, bool allow_empty) {
      const dnnl::convolution_backward_data::desc desc(
          algorithm, any_layout(spec_.x, stored_), any_layout(weights_shape(spec_), operands_),
          any_layout(y_shape_, operands_), pair(spec_.stride), dilation_of(spec_),
          pair(spec_.padding), pair(spec_.padding));
      return dnnl::convolution_backward_data::primitive_desc(
          desc, onednn_attributes(), onednn_engine(), forward_pd_, allow_empty);
    });
    auto& program = backward_data_;
    const auto dy = program.bound(y_desc()), w = program.bound(w_), dx = program.bound(x_);
    const auto dy_in = program.converted(dy, pd.diff_dst_desc());
    const auto w_in = program.converted(w, pd.weights_desc());
    const auto dx_out = program.staged(dx, pd.diff_src_desc());
    program.add(
        dnnl::convolution_backward_data(pd), pd.scratchpad_desc(),
        {{DNNL_ARG_DIFF_DST, dy_in}, {DNNL_ARG_WEIGHTS, w_in}, {DNNL_ARG_DIFF_SRC, dx_out}});
    program.convert(dx_out, dx);
  }

  void prepare_backward_weights() {
    const auto pd = choose_algorithm(spec_, [&](dnnl::algorithm algorithm, bool allow_empty) {
      const dnnl::convolution_backward_weights::desc desc(
          algorithm, any_layout(spec_.x, operands_), any_layout(weights_shape(spec_)), bias_,
          any_layout(y_shape_, operands_), pair(spec_.stride), dilation_of(spec_),
          pair(spec_.padding), pair(spec_.padding));
      return dnnl::convolution_backward_weights::primitive_desc(
          desc, onednn_attributes(), onednn_engine(), forward_pd_, allow_empty);
    });
    auto& program = backward_weights_;
    const auto x = program.bound(x_), dy = program.bound(y_desc()), dw = program.bound(dw_);
    const auto x_in = program.converted(x, pd.src_desc());
    const auto dy_in = program.converted(dy, pd.diff_dst_desc());
    const auto dw_out = program.staged(dw, pd.diff_weights_desc());
    if (spec_.bias) {
      const auto db = program.bound(bias_);
      program.add(dnnl::convolution_backward_weights(pd), pd.scratchpad_desc(),
                  {{DNNL_ARG_SRC, x_in},
                   {DNNL_ARG_DIFF_DST, dy_in},
                   {DNNL_ARG_DIFF_WEIGHTS, dw_out},
                   {DNNL_ARG_DIFF_BIAS, db}});
    } else {
      program.add(
          dnnl::convolution_backward_weights(pd), pd.scratchpad_desc(),
          {{DNNL_ARG_SRC, x_in}, {DNNL_ARG_DIFF_DST, dy_in}, {DNNL_ARG_DIFF_WEIGHTS, dw_out}});
    }
    program.convert(dw_out, dw);
  }

  Conv2dSpec spec_;
  DataType stored_;    // of x, y, dx, dy and w
  DataType operands_;  // as primitives take them
  Shape y_shape_;
  MemoryDesc x_, w_, dw_, bias_;
  dnnl::convolution_forward::primitive_desc forward_pd_;
  const Layout* y_layout_;
  Program forward_{"conv2d"};
  Program backward_data_{"conv2d backward_data"};
  Program backward_weights_{"conv2d backward_weights"};
};

}  // namespace

std::unique_ptr<Conv2d> CpuKernels::make_conv2d(const Conv2dSpec& spec) {
  return with_onednn("make_conv2d", [&]() -> std::unique_ptr<Conv2d> {
    if (!onednn_has_winograd() && !rounds(spec))
      if (auto winograd = make_winograd(spec)) return winograd;
    return std::make_unique<OneDnnConv2d>(spec);
  });
}

}  // namespace peal::cpu
