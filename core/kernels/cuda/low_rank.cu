// Products of a large matrix m with thin ones, bound by reading m: once for up to four of the K
// vectors, or for sixteen at a time. Sums are f32 as on the CPU: one for each thread, then a tree.
#include "core/base/philox.h"
#include "core/base/random.h"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

constexpr int kFew = 4, kMany = 16;  // vectors that one pass over m is for

// ---- p = (m += g) q^T -----------------------------------------------------------------------

struct Matrix {
  std::int64_t rows, columns, rank;
  bool wide;
};

// kWarps warps, all of a block or one, take kRows rows; each thread every so many packs of them.
template <int kWidth, int kRows, int kVectors, int kWarps>
__global__ void __launch_bounds__(kThreads)
    project(const float* g, const float* q, float* m, float* p, Matrix of) {
  constexpr int kGroup = kWarps * kWarp, kGroups = kThreads / kGroup;
  __shared__ float of_warp[kRows * kVectors][kWarps];
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  const std::int64_t first =
      (static_cast<std::int64_t>(blockIdx.x) * kGroups + threadIdx.x / kGroup) * kRows;
  if (first >= of.rows) return;  // all of the group
  const int rows = static_cast<int>(min(static_cast<std::int64_t>(kRows), of.rows - first));
  for (std::int64_t vector = 0; vector < of.rank; vector += kVectors) {
    float sum[kRows][kVectors] = {};
    for (std::int64_t c = lane * kWidth; c < of.columns; c += kGroup * kWidth) {
      Pack<kWidth> v[kRows] = {}, add[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const std::int64_t at = (first + r) * of.columns + c;
        if (r < rows) v[r] = read_pack<kWidth>(m + at, of.wide);
        if (r < rows && vector == 0) add[r] = read_pack<kWidth>(g + at, of.wide);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows || vector != 0) break;
#pragma unroll
        for (int e = 0; e < kWidth; ++e) v[r].of[e] += add[r].of[e];
        write_pack<kWidth>(m + (first + r) * of.columns + c, v[r], of.wide);
      }
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        if (vector + k >= of.rank) break;
        const Pack<kWidth> by = read_pack<kWidth>(q + (vector + k) * of.columns + c, of.wide);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int e = 0; e < kWidth; ++e) sum[r][k] = fmaf(v[r].of[e], by.of[e], sum[r][k]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        const float part = warp_reduce(sum[r][k]);
        const bool wanted = r < rows && vector + k < of.rank;
        if constexpr (kWarps == 1) {
          if (lane == 0 && wanted) p[(first + r) * of.rank + vector + k] = part;
        } else {
          if (lane % kWarp == 0) of_warp[r * kVectors + k][lane / kWarp] = part;
        }
      }
    }
    if constexpr (kWarps > 1) {
      __syncthreads();
      const int r = lane / kVectors, k = lane % kVectors;
      if (r < rows && vector + k < of.rank) {
        float total = 0;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) total += of_warp[lane][w];
        p[(first + r) * of.rank + vector + k] = total;
      }
      __syncthreads();  // before the next vectors
    }
  }
}

template <int kWidth, int kRows, int kVectors>
void project(const OnStream& on, const Tensor& g, const Tensor& q, const Tensor& m, const Tensor& p,
             const Matrix& of) {
  // Few long rows: a block for each few, so that enough are under way.
  constexpr int kWarps = kThreads / kWarp;
  const auto launch = [&](auto kernel, std::int64_t rows_of_block) {
    kernel<<<blocks_for(of.rows, rows_of_block), kThreads, 0, on.stream>>>(
        g.as<float>(), q.as<float>(), m.as<float>(), p.as<float>(), of);
  };
  if (of.columns >= 1024 && of.rows <= 16384) {
    launch(project<kWidth, kRows, kVectors, kWarps>, kRows);
  } else {
    launch(project<kWidth, kRows, kVectors, 1>, kRows * kWarps);
  }
}

template <int kWidth>
void project(const OnStream& on, const Tensor& g, const Tensor& q, const Tensor& m, const Tensor& p,
             const Matrix& of) {
  if (of.rank <= kFew) {
    project<kWidth, 4, kFew>(on, g, q, m, p, of);
  } else {
    project<kWidth, 2, kMany>(on, g, q, m, p, of);
  }
}

// ---- q = p^T m ------------------------------------------------------------------------------

// Block (x, y): a Tile's columns of kVectors vectors.
template <int kVectors>
__global__ void __launch_bounds__(1024)
    project_back(const float* m, const float* p, float* q, Matrix of, Tile tile) {
  extern __shared__ float shared[];
  const TileThread me(tile);
  const std::int64_t c = blockIdx.x * tile.columns + me.column;
  const int vector = static_cast<int>(blockIdx.y) * kVectors;
  const int vectors = min(kVectors, static_cast<int>(of.rank) - vector);
  float sum[kVectors] = {};
  if (c < of.columns) {
    const int step = static_cast<int>(tile.rows);
#pragma unroll(kVectors == kFew ? 4 : 2)
    for (std::int64_t r = me.row; r < of.rows; r += step) {
      const float v = m[r * of.columns + c];
      const float* by = p + r * of.rank + vector;
#pragma unroll
      for (int k = 0; k < kVectors; ++k) {
        if (k < vectors) sum[k] = fmaf(by[k], v, sum[k]);
      }
    }
  }
#pragma unroll
  for (int k = 0; k < kVectors; ++k) {
    if (k >= vectors) break;  // all of the block
    const float total = sum_tile(sum[k], tile, shared);
    if (me.row == 0 && c < of.columns) q[(vector + k) * of.columns + c] = total;
  }
}

// ---- Gram-Schmidt ---------------------------------------------------------------------------

constexpr int kMostVectors = 64;
constexpr int kOneBlock = 1024;  // threads of a block that is the only one

struct Draws {
  std::uint32_t key[2];
  std::uint32_t high[kMostVectors][2];  // of column k's stream
};

// Columns of p (rows, rank), each thread at rows of its own, so that it reads what it wrote itself.
struct Basis {
  float* p;
  std::int64_t rows, rank;

  // Takes `along` times column j-1 out of column k (nothing for j = 0); its product with column j,
  // and with itself at this thread's rows. Several rows are read at once.
  __device__ double step(std::int64_t j, std::int64_t k, double along, double& own) const {
    constexpr int kAtOnce = 4;
    double dot = 0;
    own = 0;
    for (std::int64_t first = threadIdx.x; first < rows; first += kAtOnce * kOneBlock) {
      float x[kAtOnce] = {}, before[kAtOnce] = {}, by[kAtOnce] = {};
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const std::int64_t r = first + i * kOneBlock;
        if (r >= rows) break;
        x[i] = p[r * rank + k];
        by[i] = p[r * rank + j];
        if (j > 0) before[i] = p[r * rank + j - 1];
      }
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) {
        const std::int64_t r = first + i * kOneBlock;
        if (r >= rows) break;
        if (j > 0) p[r * rank + k] = x[i] = static_cast<float>(x[i] - along * before[i]);
        dot += static_cast<double>(x[i]) * (j == k ? x[i] : by[i]);
        own += static_cast<double>(x[i]) * x[i];
      }
    }
    return block_reduce<kOneBlock>(dot);
  }
  // Takes the columns before k out of column k; returns what part of its length is left.
  __device__ double reduce(std::int64_t k) const {
    double before = 0, along = 0;
    for (std::int64_t j = 0; j <= k; ++j) {
      double own;
      along = step(j, k, along, own);
      if (j == 0) before = sqrt(block_reduce<kOneBlock>(own));
    }
    const double after = sqrt(along);  // the last product is that of column k with itself
    if (before == 0) return 0;
    for (std::int64_t r = threadIdx.x; r < rows; r += kOneBlock) {
      p[r * rank + k] = static_cast<float>(p[r * rank + k] / after);
    }
    return after / before;
  }
  // As Random::normal has it.
  __device__ void draw(const Draws& draws, std::int64_t k) const {
    const PhiloxKey key{.key = {draws.key[0], draws.key[1]},
                        .high = {draws.high[k][0], draws.high[k][1]}};
    for (std::int64_t r = threadIdx.x; r < rows; r += kOneBlock) {
      std::uint32_t words[4];
      philox(static_cast<std::uint64_t>(r), key, words);
      const double u = (static_cast<double>(words[0]) + 1.0) * 0x1p-32;
      const double v = static_cast<double>(words[1]) * 0x1p-32;
      p[r * rank + k] =
          static_cast<float>(sqrt(-2.0 * log(u)) * cos(2.0 * 3.14159265358979323846 * v));
    }
  }
};

// One block: K^2 passes over its rows of two columns, each followed by a meeting of the block.
__global__ void __launch_bounds__(kOneBlock)
    orthonormalize_kernel(const __grid_constant__ Draws draws, Basis basis) {
  // Of a column that depends on others, rounding leaves some 1e-7 of its length.
  constexpr double kDependent = 1e-5;
  for (std::int64_t k = 0; k < basis.rank; ++k) {
    if (basis.reduce(k) < kDependent) {
      basis.draw(draws, k);
      basis.reduce(k);
    }
    basis.reduce(k);  // what rounding has left along the others
  }
}

}  // namespace

void CudaKernels::low_rank_project(Stream& s, const Tensor& g, const Tensor& q, Tensor m,
                                   Tensor p) {
  if (m.numel() == 0) return fill(s, p, 0);
  const OnStream on(s);
  const Matrix of{.rows = p.shape[0],
                  .columns = q.shape[1],
                  .rank = q.shape[0],
                  .wide = aligned(g.data) && aligned(q.data) && aligned(m.data)};
  if (of.columns % kWide == 0) {
    project<kWide>(on, g, q, m, p, of);
  } else {
    project<1>(on, g, q, m, p, of);
  }
  check_launch("low_rank_project");
}

void CudaKernels::low_rank_project_back(Stream& s, const Tensor& m, const Tensor& p, Tensor q) {
  if (m.numel() == 0) return fill(s, q, 0);
  const OnStream on(s);
  const Matrix of{.rows = p.shape[0], .columns = q.shape[1], .rank = q.shape[0], .wide = false};
  const int vectors = of.rank <= kFew ? kFew : kMany;
  const std::int64_t groups = ceil_div(of.rank, vectors);
  const Tile tile = Tile::of(of.rows, of.columns, groups);
  const auto threads = static_cast<unsigned>(tile.threads());
  const dim3 blocks(blocks_for(of.columns, tile.columns), static_cast<unsigned>(groups));
  const auto launch = [&](auto kernel) {
    kernel<<<blocks, threads, threads * sizeof(float), on.stream>>>(m.as<float>(), p.as<float>(),
                                                                    q.as<float>(), of, tile);
  };
  if (vectors == kFew) {
    launch(project_back<kFew>);
  } else {
    launch(project_back<kMany>);
  }
  check_launch("low_rank_project_back");
}

void CudaKernels::orthonormalize(Stream& s, const RandomKey& key, Tensor p) {
  const Basis basis{.p = p.as<float>(), .rows = p.shape[0], .rank = p.shape[1]};
  Draws draws = {};
  for (std::int64_t k = 0; k < basis.rank && k < kMostVectors; ++k) {
    RandomKey of_column = key;
    of_column.stream = static_cast<std::uint64_t>(k);
    const PhiloxKey words = Random(of_column).philox_key();
    for (int w = 0; w < 2; ++w) {
      draws.key[w] = words.key[w];
      draws.high[k][w] = words.high[w];
    }
  }
  const OnStream on(s);
  orthonormalize_kernel<<<1, kOneBlock, 0, on.stream>>>(draws, basis);
  check_launch("orthonormalize");
}

}  // namespace peal::cuda
