#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal::cuda {

void CudaKernels::fill(Stream&, Tensor, float) {
  fail_internal("fill", "not on CUDA yet");
}
void CudaKernels::copy(Stream&, const Tensor&, Tensor) {
  fail_internal("copy", "not on CUDA yet");
}
void CudaKernels::activation(Stream&, Activation, float, const Tensor&, Tensor) {
  fail_internal("activation", "not on CUDA yet");
}
void CudaKernels::activation_backward(Stream&, Activation, float, const Tensor&, const Tensor&,
                                      const Tensor&, Tensor) {
  fail_internal("activation_backward", "not on CUDA yet");
}
void CudaKernels::scale(Stream&, float, const Tensor&, Tensor) {
  fail_internal("scale", "not on CUDA yet");
}
void CudaKernels::accumulate(Stream&, const Tensor&, Tensor) {
  fail_internal("accumulate", "not on CUDA yet");
}
void CudaKernels::binary(Stream&, BinaryOp, const Tensor&, const Tensor&, Tensor) {
  fail_internal("binary", "not on CUDA yet");
}
void CudaKernels::dropout(Stream&, const RandomKey&, float, const Tensor&, Tensor) {
  fail_internal("dropout", "not on CUDA yet");
}
void CudaKernels::transpose(Stream&, const Tensor&, std::span<const int>, Tensor) {
  fail_internal("transpose", "not on CUDA yet");
}
void CudaKernels::copy_box(Stream&, const Tensor&, std::span<const std::int64_t>, Tensor,
                           std::span<const std::int64_t>, const Shape&) {
  fail_internal("copy_box", "not on CUDA yet");
}
void CudaKernels::broadcast(Stream&, const Tensor&, float, Tensor) {
  fail_internal("broadcast", "not on CUDA yet");
}
void CudaKernels::embedding(Stream&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("embedding", "not on CUDA yet");
}
void CudaKernels::low_rank_expand(Stream&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("low_rank_expand", "not on CUDA yet");
}
void CudaKernels::subtract_scaled(Stream&, float, const Tensor&, Tensor) {
  fail_internal("subtract_scaled", "not on CUDA yet");
}

}  // namespace peal::cuda
