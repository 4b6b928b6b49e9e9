// Rows are normalised as rows.cuh has it. The gradients of gamma and beta are sums over all rows:
// first those of chunks of rows, which wait in scratch memory, then those over the chunks.
//
// Cost: forward reads x once and writes y; backward reads x and dy twice, once for these sums.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/rows.cuh"

namespace peal::cuda {
namespace {

__device__ float inverse_deviation(float variance, float epsilon) {
  return 1.0f / sqrtf(variance + epsilon);
}

template <class Part>
__global__ void __launch_bounds__(Part::kBlock)
    normalise(const float* x, const float* gamma, const float* beta, float epsilon, float* y,
              float* mean, float* variance, RowsOf of) {
  const Part part(of);
  if (part.outside()) return;
  const auto row = part.read(x + part.offset());
  const double per_n = 1.0 / static_cast<double>(of.columns);
  const double centre = part.sum([](float v) { return static_cast<double>(v); }, row) * per_n;
  const auto square = [=](float v) { return (v - centre) * (v - centre); };
  const auto spread = static_cast<float>(part.sum(square, row) * per_n);
  const auto average = static_cast<float>(centre);
  const float factor = inverse_deviation(spread, epsilon);
  part.write(
      y + part.offset(), [=](float v, float g, float b) { return (v - average) * factor * g + b; },
      row, part.factors(gamma), part.factors(beta));
  if (part.first()) {
    mean[part.row] = average;
    variance[part.row] = spread;
  }
}

// dx = rstd * (g - mean(g) - z * mean(g * z)) with g = dy * gamma and z = (x - mean) * rstd
template <class Part>
__global__ void __launch_bounds__(Part::kBlock)
    gradient_of_x(const float* x, const float* gamma, const float* mean, const float* variance,
                  const float* dy, float epsilon, float* dx, RowsOf of) {
  const Part part(of);
  if (part.outside()) return;
  const auto row = part.read(x + part.offset(), 0);
  const auto gradient = part.read(dy + part.offset(), 1);
  const auto factors = part.factors(gamma);
  const float average = mean[part.row], rstd = inverse_deviation(variance[part.row], epsilon);
  const double per_n = 1.0 / static_cast<double>(of.columns);
  const double plain =
      part.sum([](float d, float g) { return static_cast<double>(d * g); }, gradient, factors);
  const auto product = [=](float v, float d, float g) {
    return static_cast<double>(d * g) * ((v - average) * rstd);
  };
  const double along = part.sum(product, row, gradient, factors);
  const auto constant = static_cast<float>(plain * per_n);
  const auto slope = static_cast<float>(along * per_n);
  part.write(
      dx + part.offset(),
      [=](float v, float d, float g) {
        return rstd * (d * g - constant - (v - average) * rstd * slope);
      },
      row, gradient, factors);
}

// ---- Gradients of gamma and beta ------------------------------------------------------------

struct Chunks {
  std::int64_t rows, columns, rows_each, count;

  static Chunks of(std::int64_t rows, std::int64_t columns) {
    constexpr std::int64_t kLeast = 64, kMost = 128;  // rows of a chunk; chunks
    const std::int64_t each = std::max(kLeast, ceil_div(rows, kMost));
    return {rows, columns, each, std::max<std::int64_t>(ceil_div(rows, each), 1)};
  }
  // Two sums for each column and chunk: (chunk, 2, column).
  std::size_t bytes() const {
    return static_cast<std::size_t>(count * 2 * columns) * sizeof(double);
  }
};

// Block (x, y): a warp's width of columns, chunk y. A warp has every eighth row of the chunk.
template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    sum_chunks(const float* x, const float* mean, const float* variance, const float* dy,
               float epsilon, bool wide, Chunks chunks, double* sums) {
  constexpr int kWarps = kThreads / kWarp, kColumns = kWarp * kWidth;
  __shared__ double shared[kWarps][2][kColumns];
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int mine = static_cast<int>(threadIdx.x) % kWarp * kWidth;
  const std::int64_t first = static_cast<std::int64_t>(blockIdx.x) * kColumns;
  double of_gamma[kWidth] = {}, of_beta[kWidth] = {};
  if (first + mine < chunks.columns) {
    const std::int64_t begin = blockIdx.y * chunks.rows_each;
    const std::int64_t end = min(begin + chunks.rows_each, chunks.rows);
#pragma unroll 4
    for (std::int64_t r = begin + warp; r < end; r += kWarps) {
      const std::int64_t at = r * chunks.columns + first + mine;
      const Pack<kWidth> v = read_pack<kWidth>(x + at, wide), g = read_pack<kWidth>(dy + at, wide);
      const float average = mean[r], rstd = inverse_deviation(variance[r], epsilon);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        of_gamma[e] += static_cast<double>(g.of[e] * ((v.of[e] - average) * rstd));
        of_beta[e] += static_cast<double>(g.of[e]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    shared[warp][0][mine + e] = of_gamma[e];
    shared[warp][1][mine + e] = of_beta[e];
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < 2 * kColumns; i += kThreads) {
    const int which = i / kColumns, column = i % kColumns;
    if (first + column >= chunks.columns) continue;
    double sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += shared[w][which][column];
    sums[(2 * static_cast<std::int64_t>(blockIdx.y) + which) * chunks.columns + first + column] =
        sum;
  }
}

// Block (x, y): 32 columns of gamma's or beta's gradient, the chunks shared by eight warps.
__global__ void __launch_bounds__(kThreads)
    add_chunks(const double* sums, Chunks chunks, float* dgamma, float* dbeta) {
  __shared__ double shared[kThreads];
  const Tile tile{.rows = kThreads / kWarp, .columns = kWarp};
  const TileThread me(tile);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kWarp + me.column;
  double sum = 0;
  if (column < chunks.columns) {
#pragma unroll 4
    for (std::int64_t k = me.row; k < chunks.count; k += kThreads / kWarp) {
      sum += sums[(2 * k + blockIdx.y) * chunks.columns + column];
    }
  }
  sum = sum_tile(sum, tile, shared);
  if (me.row == 0 && column < chunks.columns) {
    (blockIdx.y == 0 ? dgamma : dbeta)[column] = static_cast<float>(sum);
  }
}

class CudaLayerNorm final : public LayerNorm {
 public:
  CudaLayerNorm(std::int64_t rows, std::int64_t columns, float epsilon)
      : chunks_(Chunks::of(rows, columns)), epsilon_(epsilon) {}

  std::size_t scratch_bytes() const override { return chunks_.bytes(); }

  void forward(Stream& s, const Tensor& x, const Tensor& gamma, const Tensor& beta, Tensor y,
               Tensor mean, Tensor variance, Tensor) override {
    const bool wide =
        aligned(x.data) && aligned(gamma.data) && aligned(beta.data) && aligned(y.data);
    for_part(chunks_.columns, [&]<class Part>(PartTag<Part>) {
      launch_rows<Part>(s, "layer_norm", normalise<Part>, chunks_.rows, chunks_.columns, 1, wide,
                        x.as<float>(), gamma.as<float>(), beta.as<float>(), epsilon_, y.as<float>(),
                        mean.as<float>(), variance.as<float>());
    });
  }

  void backward(Stream& s, const Tensor& x, const Tensor& gamma, const Tensor& mean,
                const Tensor& variance, const Tensor& dy, Tensor dx, Tensor dgamma, Tensor dbeta,
                Tensor scratch) override {
    const bool wide =
        aligned(x.data) && aligned(gamma.data) && aligned(dy.data) && aligned(dx.data);
    for_part(chunks_.columns, [&]<class Part>(PartTag<Part>) {
      launch_rows<Part>(s, "layer_norm backward", gradient_of_x<Part>, chunks_.rows,
                        chunks_.columns, 2, wide, x.as<float>(), gamma.as<float>(),
                        mean.as<float>(), variance.as<float>(), dy.as<float>(), epsilon_,
                        dx.as<float>());
    });
    if (chunks_.columns == 0) return;
    const OnStream on(s);
    if (chunks_.columns % kWide == 0) {
      sum<kWide>(on, x, mean, variance, dy, scratch.as<double>());
    } else {
      sum<1>(on, x, mean, variance, dy, scratch.as<double>());
    }
    const dim3 blocks(blocks_for(chunks_.columns, kWarp), 2);
    add_chunks<<<blocks, kThreads, 0, on.stream>>>(scratch.as<double>(), chunks_,
                                                   dgamma.as<float>(), dbeta.as<float>());
    check_launch("layer_norm backward, gamma and beta");
  }

 private:
  template <int kWidth>
  void sum(const OnStream& on, const Tensor& x, const Tensor& mean, const Tensor& variance,
           const Tensor& dy, double* sums) const {
    const dim3 blocks(blocks_for(chunks_.columns, kWarp * kWidth),
                      static_cast<unsigned>(chunks_.count));
    sum_chunks<kWidth><<<blocks, kThreads, 0, on.stream>>>(
        x.as<float>(), mean.as<float>(), variance.as<float>(), dy.as<float>(), epsilon_,
        aligned(x.data) && aligned(dy.data), chunks_, sums);
  }

  Chunks chunks_;
  float epsilon_;
};

}  // namespace

std::unique_ptr<LayerNorm> CudaKernels::make_layer_norm(std::int64_t rows, std::int64_t columns,
                                                        float epsilon) {
  return std::make_unique<CudaLayerNorm>(rows, columns, epsilon);
}

}  // namespace peal::cuda
