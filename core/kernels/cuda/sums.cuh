// What kernels that sum are written with, beside launch.cuh. Sums are taken in f64, where an
// addition and the conversion of an f32 cost less than reading it. Memory brings halves faster than
// they are converted (16 a clock of a multiprocessor): a few of them (4 to 16) are added in f32,
// in a fixed order, and that is converted. f32 has 13 to 16 bits more than a half, so that such a
// sum is hardly ever rounded.
#pragma once

#include "core/kernels/cuda/axes.h"
#include "core/kernels/cuda/launch.cuh"

namespace peal::cuda {

// ---- Sums that many blocks share --------------------------------------------------------------

// The f64 sums of blocks, in the stream's workspace until add_parts adds them up.
inline double* parts_of(Stream& s) {
  return reinterpret_cast<double*>(s.workspace());
}
constexpr std::int64_t kMostParts = 4096;
static_assert(kMostParts * sizeof(double) <= Stream::kWorkspaceBytes);

// y[i] = factor * (the sum of parts[i * count] to parts[i * count + count - 1]) / divisor
void add_parts(const OnStream& on, const double* parts, std::int64_t outputs, std::int64_t count,
               double factor, double divisor, float* y);

// ---- Packs, and tiles of threads --------------------------------------------------------------

struct Larger {  // a NaN is passed over, as fmaxf does
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

// Thread (row, column) of a block that is a Tile.
struct TileThread {
  __device__ explicit TileThread(const Tile& tile)
      : row(static_cast<int>(threadIdx.x) / static_cast<int>(tile.columns)),
        column(static_cast<int>(threadIdx.x) % static_cast<int>(tile.columns)) {}
  int row, column;
};

// The sum over the rows of a Tile, at its row 0, by a tree. `shared` has a T for each thread; all
// threads call it, and it may be called again at once.
template <typename T>
__device__ T sum_tile(T value, const Tile& tile, T* shared) {
  shared[threadIdx.x] = value;
  for (int apart = static_cast<int>(tile.rows) / 2; apart > 0; apart /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < apart * static_cast<int>(tile.columns)) {
      shared[threadIdx.x] += shared[threadIdx.x + apart * static_cast<int>(tile.columns)];
    }
  }
  __syncthreads();  // before the next call writes there
  return shared[threadIdx.x];
}

}  // namespace peal::cuda
