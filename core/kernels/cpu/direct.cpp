#include "core/base/error.h"
#include "core/kernels/cpu/cpu_kernels.h"

namespace peal::cpu {

void CpuKernels::fill(Stream&, Tensor, float) {
  fail_internal("fill", "not written yet");
}
void CpuKernels::copy(Stream&, const Tensor&, Tensor) {
  fail_internal("copy", "not written yet");
}
void CpuKernels::activation(Stream&, Activation, float, const Tensor&, Tensor) {
  fail_internal("activation", "not written yet");
}
void CpuKernels::activation_backward(Stream&, Activation, float, const Tensor&, const Tensor&,
                                     const Tensor&, Tensor) {
  fail_internal("activation_backward", "not written yet");
}
void CpuKernels::scale(Stream&, float, const Tensor&, Tensor) {
  fail_internal("scale", "not written yet");
}
void CpuKernels::accumulate(Stream&, const Tensor&, Tensor) {
  fail_internal("accumulate", "not written yet");
}
void CpuKernels::binary(Stream&, BinaryOp, const Tensor&, const Tensor&, Tensor) {
  fail_internal("binary", "not written yet");
}
void CpuKernels::dropout(Stream&, const RandomKey&, float, const Tensor&, Tensor) {
  fail_internal("dropout", "not written yet");
}
void CpuKernels::transpose(Stream&, const Tensor&, std::span<const int>, Tensor) {
  fail_internal("transpose", "not written yet");
}
void CpuKernels::copy_box(Stream&, const Tensor&, std::span<const std::int64_t>, Tensor,
                          std::span<const std::int64_t>, const Shape&) {
  fail_internal("copy_box", "not written yet");
}
void CpuKernels::reduce_sum(Stream&, const Tensor&, float, Tensor) {
  fail_internal("reduce_sum", "not written yet");
}
void CpuKernels::broadcast(Stream&, const Tensor&, float, Tensor) {
  fail_internal("broadcast", "not written yet");
}
void CpuKernels::batch_norm_statistics(Stream&, const Tensor&, const Tensor&, Tensor, Tensor) {
  fail_internal("batch_norm_statistics", "not written yet");
}
void CpuKernels::batch_norm(Stream&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                            const Tensor&, float, Tensor) {
  fail_internal("batch_norm", "not written yet");
}
void CpuKernels::batch_norm_backward(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                     const Tensor&, const Tensor&, float, const Tensor&, Tensor,
                                     Tensor, Tensor) {
  fail_internal("batch_norm_backward", "not written yet");
}
void CpuKernels::batch_norm_contribution(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                         const Tensor&, Tensor) {
  fail_internal("batch_norm_contribution", "not written yet");
}
void CpuKernels::batch_norm_running(Stream&, const Tensor&, float, Tensor, Tensor) {
  fail_internal("batch_norm_running", "not written yet");
}
void CpuKernels::embedding(Stream&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("embedding", "not written yet");
}
void CpuKernels::embedding_backward(Stream&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("embedding_backward", "not written yet");
}
void CpuKernels::softmax_cross_entropy(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor,
                                       Tensor) {
  fail_internal("softmax_cross_entropy", "not written yet");
}
void CpuKernels::softmax_cross_entropy_backward(Stream&, const Tensor&, const Tensor&,
                                                const Tensor&, const Tensor&, Tensor) {
  fail_internal("softmax_cross_entropy_backward", "not written yet");
}
void CpuKernels::binary_cross_entropy(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                      Tensor) {
  fail_internal("binary_cross_entropy", "not written yet");
}
void CpuKernels::binary_cross_entropy_backward(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                               const Tensor&, Tensor) {
  fail_internal("binary_cross_entropy_backward", "not written yet");
}
void CpuKernels::squared_error(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("squared_error", "not written yet");
}
void CpuKernels::squared_error_backward(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                        const Tensor&, Tensor) {
  fail_internal("squared_error_backward", "not written yet");
}
void CpuKernels::count_correct(Stream&, const Tensor&, const Tensor&, const Tensor&, Tensor) {
  fail_internal("count_correct", "not written yet");
}
void CpuKernels::count_correct_binary(Stream&, const Tensor&, const Tensor&, const Tensor&,
                                      Tensor) {
  fail_internal("count_correct_binary", "not written yet");
}
void CpuKernels::sum_squares(Stream&, const Tensor&, Tensor) {
  fail_internal("sum_squares", "not written yet");
}
void CpuKernels::sgd(Stream&, const SgdStep&, const Tensor&, Tensor, Tensor) {
  fail_internal("sgd", "not written yet");
}
void CpuKernels::adam(Stream&, const AdamStep&, const Tensor&, Tensor, Tensor, Tensor) {
  fail_internal("adam", "not written yet");
}
void CpuKernels::rmsprop(Stream&, const RmsPropStep&, const Tensor&, Tensor, Tensor, Tensor) {
  fail_internal("rmsprop", "not written yet");
}

}  // namespace peal::cpu
