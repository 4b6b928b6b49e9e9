#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal::cuda {

std::unique_ptr<Conv2d> CudaKernels::make_conv2d(const Conv2dSpec&) {
  fail_internal("make_conv2d", "not on CUDA yet");
}
std::unique_ptr<Pool2d> CudaKernels::make_pool2d(const Pool2dSpec&) {
  fail_internal("make_pool2d", "not on CUDA yet");
}
std::unique_ptr<ConvReluPool> CudaKernels::make_conv_relu_pool(const Conv2dSpec&,
                                                               const Pool2dSpec&) {
  fail_internal("make_conv_relu_pool", "not on CUDA yet");
}
std::unique_ptr<Matmul> CudaKernels::make_matmul(const MatmulSpec&) {
  fail_internal("make_matmul", "not on CUDA yet");
}
std::unique_ptr<Reorder> CudaKernels::make_reorder(const Shape&, const Layout*, const Layout*) {
  fail_internal("make_reorder", "not on CUDA yet");
}

}  // namespace peal::cuda
