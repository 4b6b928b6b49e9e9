#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const double* parts, std::int64_t count, double factor, double divisor,
                     float* y) {
  const double* const mine = parts + blockIdx.x * count;
  double sum = 0;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < count; i += kThreads) sum += mine[i];
  sum = block_reduce(sum);
  if (threadIdx.x == 0) y[blockIdx.x] = static_cast<float>(sum * factor / divisor);
}

}  // namespace

void add_parts(const OnStream& on, const double* parts, std::int64_t outputs, std::int64_t count,
               double factor, double divisor, float* y) {
  add_parts_kernel<<<blocks_for(outputs, 1), kThreads, 0, on.stream>>>(parts, count, factor,
                                                                       divisor, y);
  check_launch("the sum of parts");
}

}  // namespace peal::cuda
