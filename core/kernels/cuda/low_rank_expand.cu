// y (R, C) = p (R, K) q (K, C): bound by writing y. Products are added in the order of K and each
// is rounded, as on the CPU.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/launch.cuh"

namespace peal::cuda {
namespace {

constexpr int kRows = 8;                  // of a thread, which share what it reads of q
constexpr int kWarps = kThreads / kWarp;  // of a block, below each other
constexpr int kBlockRows = kRows * kWarps;

struct Product {
  std::int64_t rows, columns, rank;
  unsigned column_blocks;  // of kWarp packs
};

// A warp has kRows rows and a pack of columns for each lane.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    expand_kernel(Product by, const float* p, const float* q, float* y) {
  const std::int64_t pack =
      std::int64_t{blockIdx.x % by.column_blocks} * kWarp + threadIdx.x % kWarp;
  const std::int64_t column = pack * kWidth;
  const std::int64_t row = std::int64_t{blockIdx.x / by.column_blocks} * kBlockRows +
                           static_cast<std::int64_t>(threadIdx.x / kWarp) * kRows;
  if (column >= by.columns) return;
  float sum[kRows][kWidth] = {};
  for (std::int64_t k = 0; k < by.rank; ++k) {
    const Pack<kWidth> v = load_pack<kWidth>(q + k * by.columns + column);
    float factor[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) factor[r] = row + r < by.rows ? p[(row + r) * by.rank + k] : 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum[r][i] += factor[r] * v.of[i];
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (row + r >= by.rows) break;
    Pack<kWidth> out;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) out.of[i] = sum[r][i];
    store_pack(y + (row + r) * by.columns + column, out);
  }
}

template <int kWidth>
void launch_expand(const OnStream& on, Product by, const float* p, const float* q, float* y) {
  by.column_blocks = blocks_for(by.columns, kWarp * kWidth);
  const unsigned blocks = by.column_blocks * blocks_for(by.rows, kBlockRows);
  expand_kernel<kWidth><<<blocks, kThreads, 0, on.stream>>>(by, p, q, y);
}

}  // namespace

void CudaKernels::low_rank_expand(Stream& s, const Tensor& p, const Tensor& q, Tensor y) {
  const Product by{p.shape[0], q.shape[1], q.shape[0], 0};
  if (by.rows == 0 || by.columns == 0) return;
  const OnStream on(s);
  if (by.columns % kWide == 0 && aligned(q.data) && aligned(y.data)) {
    launch_expand<kWide>(on, by, p.as<float>(), q.as<float>(), y.as<float>());
  } else {
    launch_expand<1>(on, by, p.as<float>(), q.as<float>(), y.as<float>());
  }
  check_launch("low_rank_expand");
}

}  // namespace peal::cuda
