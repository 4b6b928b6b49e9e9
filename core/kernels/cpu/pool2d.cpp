#include <algorithm>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"

namespace peal::cpu {
namespace {

using dnnl::memory;

memory::dims pair(const std::int64_t (&values)[2]) {
  return {values[0], values[1]};
}

dnnl::algorithm algorithm_of(const Pool2dSpec& spec) {
  if (spec.kind == PoolKind::max) return dnnl::algorithm::pooling_max;
  return spec.include_padding ? dnnl::algorithm::pooling_avg_include_padding
                              : dnnl::algorithm::pooling_avg_exclude_padding;
}

// Of tensors stored as bf16 oneDNN 2.6 rounds each step of the sums where windows overlap, and
// loses gradients of large windows. So they are widened, pooled in f32 and rounded.
class OneDnnPool2d final : public Pool2d {
 public:
  explicit OneDnnPool2d(const Pool2dSpec& spec)
      : keeps_maxima_(spec.kind == PoolKind::max && spec.training),
        stored_x_(describe(spec.x, {spec.x_layout, spec.stored})),
        x_(with_type(spec.x, stored_x_, DataType::f32)),
        forward_pd_(choose_forward(spec)),
        stored_y_(with_type(spec.y(), forward_pd_.dst_desc(), data_type(spec.stored))),
        y_layout_(intern_layout(spec.y(), stored_y_)) {
    prepare_forward();
    if (spec.training) prepare_backward(spec);
  }

  const Layout* y_layout() const override { return y_layout_; }
  std::size_t saved_bytes() const override {
    return keeps_maxima_ ? forward_pd_.workspace_desc().get_size() : 0;
  }
  std::size_t scratch_bytes() const override {
    return std::max(forward_.scratch_bytes(), backward_.scratch_bytes());
  }

  void forward(Stream&, const Tensor& x, Tensor y, Tensor saved, Tensor scratch) override {
    if (keeps_maxima_) {
      forward_.run({&x, &y, &saved}, scratch);
    } else {
      forward_.run({&x, &y}, scratch);
    }
  }

  void backward(Stream&, const Tensor& dy, const Tensor& saved, Tensor dx,
                Tensor scratch) override {
    if (keeps_maxima_) {
      backward_.run({&dy, &dx, &saved}, scratch);
    } else {
      backward_.run({&dy, &dx}, scratch);
    }
  }

 private:
  dnnl::pooling_forward::primitive_desc choose_forward(const Pool2dSpec& spec) const {
    const auto kind =
        spec.training ? dnnl::prop_kind::forward_training : dnnl::prop_kind::forward_inference;
    const dnnl::pooling_forward::desc desc(kind, algorithm_of(spec), x_, any_layout(spec.y()),
                                           pair(spec.stride), pair(spec.kernel), pair(spec.padding),
                                           pair(spec.padding));
    return {desc, onednn_attributes(), onednn_engine()};
  }

  void prepare_forward() {
    const auto& pd = forward_pd_;
    const auto x = forward_.converted(forward_.bound(stored_x_), x_);
    const auto given = forward_.bound(stored_y_), y = forward_.staged(given, pd.dst_desc());
    if (keeps_maxima_) {
      const auto maxima = forward_.bound(pd.workspace_desc());
      forward_.add(dnnl::pooling_forward(pd), pd.scratchpad_desc(),
                   {{DNNL_ARG_SRC, x}, {DNNL_ARG_DST, y}, {DNNL_ARG_WORKSPACE, maxima}});
    } else {
      forward_.add(dnnl::pooling_forward(pd), pd.scratchpad_desc(),
                   {{DNNL_ARG_SRC, x}, {DNNL_ARG_DST, y}});
    }
    forward_.convert(y, given);
  }

  void prepare_backward(const Pool2dSpec& spec) {
    const dnnl::pooling_backward::desc desc(algorithm_of(spec), x_, forward_pd_.dst_desc(),
                                            pair(spec.stride), pair(spec.kernel),
                                            pair(spec.padding), pair(spec.padding));
    const dnnl::pooling_backward::primitive_desc pd(desc, onednn_attributes(), onednn_engine(),
                                                    forward_pd_);
    const auto dy = backward_.converted(backward_.bound(stored_y_), pd.diff_dst_desc());
    const auto given = backward_.bound(stored_x_), dx = backward_.staged(given, x_);
    if (keeps_maxima_) {
      const auto maxima = backward_.bound(pd.workspace_desc());
      backward_.add(
          dnnl::pooling_backward(pd), pd.scratchpad_desc(),
          {{DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_SRC, dx}, {DNNL_ARG_WORKSPACE, maxima}});
    } else {
      backward_.add(dnnl::pooling_backward(pd), pd.scratchpad_desc(),
                    {{DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_SRC, dx}});
    }
    backward_.convert(dx, given);
  }

  bool keeps_maxima_;
  MemoryDesc stored_x_, x_;  // as it is given, and in f32
  dnnl::pooling_forward::primitive_desc forward_pd_;
  MemoryDesc stored_y_;
  const Layout* y_layout_;
  Program forward_{"pool2d"};
  Program backward_{"pool2d backward"};
};

}  // namespace

std::unique_ptr<Pool2d> CpuKernels::make_pool2d(const Pool2dSpec& spec) {
  return with_onednn("make_pool2d", [&] { return std::make_unique<OneDnnPool2d>(spec); });
}

}  // namespace peal::cpu
