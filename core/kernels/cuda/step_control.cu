// One block each: they read little, and what follows waits for one number.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/loss_scale.h"

namespace peal::cuda {
namespace {

constexpr int kBlock = 1024;

struct Both {
  __device__ bool operator()(bool a, bool b) const { return a && b; }
};

__global__ void __launch_bounds__(kBlock)
    guard_kernel(const float* x, std::int64_t n, float* go, float* cleared, std::int64_t m) {
  bool finite = *go != 0.0f;
  for (std::int64_t i = threadIdx.x; i < n; i += kBlock) finite = finite && isfinite(x[i]);
  finite = block_reduce<kBlock>(finite, Both{});  // which waits for all reads of go and x
  if (finite) return;
  if (threadIdx.x == 0) *go = 0.0f;
  for (std::int64_t i = threadIdx.x; i < m; i += kBlock) cleared[i] = 0.0f;
}

// Each thread adds every kBlock-th, a tree the threads'.
__global__ void __launch_bounds__(kBlock)
    clip_kernel(const double* sums, const std::int64_t* order, std::int64_t n, double clip,
                const float* scale, double* norm, float* factor) {
  double sum = 0;
  for (std::int64_t i = threadIdx.x; i < n; i += kBlock) {
    sum += sums[order == nullptr ? i : order[i]];
  }
  sum = block_reduce<kBlock>(sum);
  if (threadIdx.x > 0) return;
  const float scaled = scale == nullptr ? 1.0f : *scale;
  const double root = sqrt(sum) / scaled, by = clip / (root + 1e-6);
  *norm = root;
  *factor = (clip == 0 || by > 1 ? 1.0f : static_cast<float>(by)) / scaled;
}

__global__ void adapt_scale_kernel(const double* norm, std::int64_t every, float* open, float* go,
                                   LossScaling* scaling) {
  adapt_loss_scale(*norm, every, *open, *go, *scaling);
}

}  // namespace

void CudaKernels::guard(Stream& s, const Tensor& x, Tensor go, Tensor cleared) {
  const OnStream on(s);
  guard_kernel<<<1, kBlock, 0, on.stream>>>(x.as<float>(), x.numel(), go.as<float>(),
                                            cleared.as<float>(), cleared.numel());
  check_launch("guard");
}

void CudaKernels::clip(Stream& s, const Tensor& sums, const Tensor& order, double clip,
                       const Tensor& scale, Tensor norm, Tensor factor) {
  const OnStream on(s);
  clip_kernel<<<1, kBlock, 0, on.stream>>>(sums.as<double>(), order.as<std::int64_t>(),
                                           sums.numel(), clip, scale.as<float>(), norm.as<double>(),
                                           factor.as<float>());
  check_launch("clip");
}

void CudaKernels::adapt_scale(Stream& s, const Tensor& norm, std::int64_t every, Tensor open,
                              Tensor go, Tensor scaling) {
  const OnStream on(s);
  adapt_scale_kernel<<<1, 1, 0, on.stream>>>(norm.as<double>(), every, open.as<float>(),
                                             go.as<float>(), scaling.as<LossScaling>());
  check_launch("adapt_scale");
}

}  // namespace peal::cuda
