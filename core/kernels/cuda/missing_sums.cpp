#include "core/base/error.h"
#include "core/kernels/cuda/cuda_kernels.h"

namespace peal::cuda {

std::unique_ptr<Softmax> CudaKernels::make_softmax(std::int64_t, std::int64_t, bool) {
  fail_internal("make_softmax", "not on CUDA yet");
}
std::unique_ptr<LayerNorm> CudaKernels::make_layer_norm(std::int64_t, std::int64_t, float) {
  fail_internal("make_layer_norm", "not on CUDA yet");
}
void CudaKernels::reduce_sum(Stream&, const Tensor&, float, Tensor) {
  fail_internal("reduce_sum", "not on CUDA yet");
}
void CudaKernels::batch_norm_statistics(Stream&, const Tensor&, const Tensor&, Tensor, Tensor) {
  fail_internal("batch_norm_statistics", "not on CUDA yet");
}
void CudaKernels::batch_norm(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                             const Tensor&, float, Tensor) {
  fail_internal("batch_norm", "not on CUDA yet");
}
void CudaKernels::batch_norm_backward(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                      const Tensor&, const Tensor&, float, const Tensor&, Tensor,
                                      Tensor, Tensor) {
  fail_internal("batch_norm_backward", "not on CUDA yet");
}
void CudaKernels::batch_norm_contribution(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                          const Tensor&, Tensor) {
  fail_internal("batch_norm_contribution", "not on CUDA yet");
}
void CudaKernels::batch_norm_running(Stream&, const Tensor&, float, Tensor, Tensor) {
  fail_internal("batch_norm_running", "not on CUDA yet");
}
void CudaKernels::embedding_backward(Stream&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("embedding_backward", "not on CUDA yet");
}
void CudaKernels::softmax_cross_entropy(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                        Tensor, Tensor) {
  fail_internal("softmax_cross_entropy", "not on CUDA yet");
}
void CudaKernels::softmax_cross_entropy_backward(Stream&, const Tensor&, const Tensor&,
                                                 const Tensor&, const Tensor&, Tensor) {
  fail_internal("softmax_cross_entropy_backward", "not on CUDA yet");
}
void CudaKernels::binary_cross_entropy(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                       Tensor) {
  fail_internal("binary_cross_entropy", "not on CUDA yet");
}
void CudaKernels::binary_cross_entropy_backward(Stream&, const Tensor&, const Tensor&,
                                                const Tensor&, const Tensor&, Tensor) {
  fail_internal("binary_cross_entropy_backward", "not on CUDA yet");
}
void CudaKernels::squared_error(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("squared_error", "not on CUDA yet");
}
void CudaKernels::squared_error_backward(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                         const Tensor&, Tensor) {
  fail_internal("squared_error_backward", "not on CUDA yet");
}
void CudaKernels::count_correct(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("count_correct", "not on CUDA yet");
}
void CudaKernels::count_correct_binary(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                       Tensor) {
  fail_internal("count_correct_binary", "not on CUDA yet");
}
void CudaKernels::low_rank_project(Stream&, const Tensor&, const Tensor&, Tensor, Tensor) {
  fail_internal("low_rank_project", "not on CUDA yet");
}
void CudaKernels::low_rank_project_back(Stream&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("low_rank_project_back", "not on CUDA yet");
}
void CudaKernels::orthonormalize(Stream&, const RandomKey&, Tensor) {
  fail_internal("orthonormalize", "not on CUDA yet");
}
void CudaKernels::sum_squares(Stream&, const Tensor&, Tensor) {
  fail_internal("sum_squares", "not on CUDA yet");
}

}  // namespace peal::cuda
