#include "core/base/error.h"
#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {

std::unique_ptr<Conv2d> CpuKernels::make_conv2d(const Conv2dSpec&) {
  fail_internal("make_conv2d", "not written yet");
}
std::unique_ptr<Pool2d> CpuKernels::make_pool2d(const Pool2dSpec&) {
  fail_internal("make_pool2d", "not written yet");
}
std::unique_ptr<ConvReluPool> CpuKernels::make_conv_relu_pool(const Conv2dSpec&,
                                                              const Pool2dSpec&) {
  fail_internal("make_conv_relu_pool", "not written yet");
}
std::unique_ptr<Matmul> CpuKernels::make_matmul(const MatmulSpec&) {
  fail_internal("make_matmul", "not written yet");
}
std::unique_ptr<Softmax> CpuKernels::make_softmax(std::int64_t, std::int64_t, bool) {
  fail_internal("make_softmax", "not written yet");
}
std::unique_ptr<LayerNorm> CpuKernels::make_layer_norm(std::int64_t, std::int64_t, float) {
  fail_internal("make_layer_norm", "not written yet");
}
std::unique_ptr<Reorder> CpuKernels::make_reorder(const Shape&, const Layout*, const Layout*) {
  fail_internal("make_reorder", "not written yet");
}

}  // namespace peal::cpu
