#include <algorithm>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/walk_kernel.cuh"

namespace peal::cuda {
namespace {

constexpr int kMine = 4;  // packs of a thread, which are read before any is written

// Pack i of y, (rows, row.divisor packs); rows * packs is below 2^31.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kThreads)
    embedding_kernel(const std::int32_t* ids, const float* table, T* y, Division row,
                     std::uint32_t packs) {
  const std::uint32_t start = blockIdx.x * kMine * kThreads + threadIdx.x;
  Pack<kWidth> v[kMine];
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::uint32_t i = start + k * kThreads;
    if (i >= packs) break;
    const std::uint32_t r = row.quotient(i);
    const std::int64_t first = static_cast<std::int64_t>(ids[r]) * row.divisor;
    v[k] = load_pack<kWidth>(table + (first + i - r * row.divisor) * kWidth);
  }
#pragma unroll
  for (int k = 0; k < kMine; ++k) {
    const std::uint32_t i = start + k * kThreads;
    if (i < packs) store_pack(y + static_cast<std::int64_t>(i) * kWidth, v[k]);
  }
}

template <int kWidth, typename T>
void gather(const OnStream& on, const std::int32_t* ids, std::int64_t rows, const float* table,
            std::int64_t columns, T* y) {
  const std::int64_t row_packs = columns / kWidth;
  const Division row = Division::by(static_cast<std::uint32_t>(row_packs));
  const std::int64_t most_rows = std::max<std::int64_t>((kMostPositions - 1) / row_packs, 1);
  for (std::int64_t r = 0; r < rows; r += most_rows) {
    const std::int64_t packs = std::min(rows - r, most_rows) * row_packs;
    embedding_kernel<kWidth><<<blocks_for(packs, kMine * kThreads), kThreads, 0, on.stream>>>(
        ids + r, table, y + r * columns, row, static_cast<std::uint32_t>(packs));
    check_launch("embedding");
  }
}

}  // namespace

void CudaKernels::embedding(Stream& s, const Tensor& ids, const Tensor& table, Tensor y) {
  const std::int64_t rows = ids.numel(), columns = table.shape[-1];
  if (rows == 0 || columns == 0) return;
  const auto* id = ids.as<std::int32_t>();
  const OnStream on(s);
  const bool both = aligned(table.data) && aligned(y.data);
  for_stored(y.dtype, [&]<typename T>(Stored<T>) {
    if (both && columns % kWideOf<T> == 0) {
      gather<kWideOf<T>>(on, id, rows, table.as<float>(), columns, y.as<T>());
    } else {
      gather<1>(on, id, rows, table.as<float>(), columns, y.as<T>());
    }
  });
}

}  // namespace peal::cuda
