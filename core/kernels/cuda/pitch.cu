#include "core/kernels/cuda/launch.cuh"
#include "core/kernels/cuda/pitch.h"

namespace peal::cuda {
namespace {

constexpr int kMine = 8;  // elements of a thread, which are read before any is written

// Block (x, y): a part of row y, y + gridDim.y, ... An odd row is aligned to an element alone, so
// elements are read one by one, neighbours by neighbouring threads.
__global__ void __launch_bounds__(kThreads)
    copy_rows_kernel(const std::uint16_t* from, std::int64_t from_pitch, std::uint16_t* to,
                     std::int64_t to_pitch, std::int64_t rows, std::int64_t columns) {
  const std::int64_t first =
      static_cast<std::int64_t>(blockIdx.x) * (kMine * kThreads) + threadIdx.x;
  for (std::int64_t r = blockIdx.y; r < rows; r += gridDim.y) {
    std::uint16_t v[kMine];
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t c = first + k * kThreads;
      if (c < columns) v[k] = from[r * from_pitch + c];
    }
#pragma unroll
    for (int k = 0; k < kMine; ++k) {
      const std::int64_t c = first + k * kThreads;
      if (c < columns) to[r * to_pitch + c] = v[k];
    }
  }
}

}  // namespace

void copy_rows(Stream& s, const void* from, std::int64_t from_pitch, void* to,
               std::int64_t to_pitch, std::int64_t rows, std::int64_t columns) {
  if (rows * columns == 0) return;
  constexpr std::int64_t kMostRows = 65535;  // of a grid, along y
  const OnStream on(s);
  const dim3 blocks(blocks_for(columns, kMine * kThreads),
                    static_cast<unsigned>(rows < kMostRows ? rows : kMostRows));
  copy_rows_kernel<<<blocks, kThreads, 0, on.stream>>>(static_cast<const std::uint16_t*>(from),
                                                       from_pitch, static_cast<std::uint16_t*>(to),
                                                       to_pitch, rows, columns);
  check_launch("rows of a matrix");
}

}  // namespace peal::cuda
