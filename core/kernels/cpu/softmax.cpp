#include <algorithm>

#include "core/kernels/cpu/cpu_kernels.h"
#include "core/kernels/cpu/onednn.h"

namespace peal::cpu {
namespace {

class OneDnnSoftmax final : public Softmax {
 public:
  OneDnnSoftmax(std::int64_t rows, std::int64_t columns, bool log) {
    const auto kind = log ? dnnl::algorithm::softmax_log : dnnl::algorithm::softmax_accurate;
    const MemoryDesc desc = row_major({rows, columns});
    const dnnl::softmax_v2_forward::primitive_desc forward(
        {dnnl::prop_kind::forward_training, kind, desc, desc, /*axis=*/1}, onednn_attributes(),
        onednn_engine());
    const auto x = forward_.bound(desc), y = forward_.bound(desc);
    forward_.add(dnnl::softmax_v2_forward(forward), forward.scratchpad_desc(),
                 {{DNNL_ARG_SRC, x}, {DNNL_ARG_DST, y}});

    const dnnl::softmax_v2_backward::primitive_desc backward(
        {kind, desc, desc, desc, /*axis=*/1}, onednn_attributes(), onednn_engine(), forward);
    const auto y_in = backward_.bound(desc), dy = backward_.bound(desc), dx = backward_.bound(desc);
    backward_.add(dnnl::softmax_v2_backward(backward), backward.scratchpad_desc(),
                  {{DNNL_ARG_DST, y_in}, {DNNL_ARG_DIFF_DST, dy}, {DNNL_ARG_DIFF_SRC, dx}});
  }

  std::size_t scratch_bytes() const override {
    return std::max(forward_.scratch_bytes(), backward_.scratch_bytes());
  }
  void forward(Stream&, const Tensor& x, Tensor y, Tensor scratch) override {
    forward_.run({&x, &y}, scratch);
  }
  void backward(Stream&, const Tensor& y, const Tensor& dy, Tensor dx, Tensor scratch) override {
    backward_.run({&y, &dy, &dx}, scratch);
  }

 private:
  Program forward_{"softmax"};
  Program backward_{"softmax backward"};
};

}  // namespace

std::unique_ptr<Softmax> CpuKernels::make_softmax(std::int64_t rows, std::int64_t columns,
                                                  bool log) {
  return with_onednn("make_softmax",
                     [&] { return std::make_unique<OneDnnSoftmax>(rows, columns, log); });
}

}  // namespace peal::cpu
