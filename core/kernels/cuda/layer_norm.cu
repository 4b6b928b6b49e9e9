// Rows are normalised as rows.cuh has it. The gradients of gamma and beta are sums over all rows:
// first those of chunks of rows, which wait in scratch memory, then those over the chunks.
//
// Cost: forward reads x once and writes y; backward reads x and dy once where a block has a row at
// a time (rows of 4 * 512 at most, in packs), else twice, once for these sums; what is added to dx
// once, by the thread that writes it there.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/rows.cuh"

namespace peal::cuda {
namespace {

__device__ float inverse_deviation(float variance, float epsilon) {
  return 1.0f / sqrtf(variance + epsilon);
}

template <class Part, typename T>
__global__ void __launch_bounds__(Part::kBlock)
    normalise(const T* x, const float* gamma, const float* beta, float epsilon, T* y, float* mean,
              float* variance, RowsOf of) {
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

// dx = rstd * (g - mean(g) - z * mean(g * z)) with g = dy * gamma and z = (x - mean) * rstd; plus
// `more` where it isn't nullptr.
template <class Part, typename T>
__global__ void __launch_bounds__(Part::kBlock)
    gradient_of_x(const T* x, const float* gamma, const float* mean, const float* variance,
                  const T* dy, const T* more, float epsilon, T* dx, RowsOf of) {
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
  const auto own = [=](float v, float d, float g) {
    return rstd * (d * g - constant - (v - average) * rstd * slope);
  };
  T* const to = dx + part.offset();
  if (more == nullptr) return part.write(to, own, row, gradient, factors);
  const RowInMemory<Part::kWidth, T> addends{more + part.offset(), of.wide};
  part.write(
      to, [=](float v, float d, float g, float m) { return own(v, d, g) + m; }, row, gradient,
      factors, addends);
}

// ---- Gradients of gamma and beta ------------------------------------------------------------

struct Chunks {
  std::int64_t rows, columns, rows_each, count;

  // At least so many rows in a chunk; at most so many chunks.
  static Chunks of(std::int64_t rows, std::int64_t columns, std::int64_t least, std::int64_t most) {
    const std::int64_t each = std::max(least, ceil_div(rows, most));
    return {rows, columns, each, std::max<std::int64_t>(ceil_div(rows, each), 1)};
  }
  // Two sums for each column and chunk: (chunk, 2, column).
  std::size_t bytes() const {
    return static_cast<std::size_t>(count * 2 * columns) * sizeof(double);
  }
};

// Block (x, y): a warp's width of columns, chunk y. A warp has every eighth row of the chunk.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kThreads)
    sum_chunks(const T* x, const float* mean, const float* variance, const T* dy, float epsilon,
               bool wide, Chunks chunks, double* sums) {
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

// All of a chunk by one block, whose thread has one pack of each row: the gradient of x too. The
// next row is read before the sums of this one are waited for.
template <int kBlock>
__global__ void __launch_bounds__(kBlock, 1024 / kBlock)
    gradients_of_chunks(const float* x, const float* gamma, const float* mean,
                        const float* variance, const float* dy, const float* more, float epsilon,
                        bool wide, Chunks chunks, float* dx, double* sums) {
  constexpr int kWarps = kBlock / kWarp;
  __shared__ double shared[2][2][kWarps];  // of rows in turn, so that one barrier is enough
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int column = static_cast<int>(threadIdx.x) * kWide;
  const bool has = column < chunks.columns;
  const std::int64_t begin = blockIdx.x * chunks.rows_each;
  const std::int64_t end = min(begin + chunks.rows_each, chunks.rows);
  const double per_n = 1.0 / static_cast<double>(chunks.columns);
  const bool adds = has && more != nullptr;
  Pack<kWide> factors = {}, v = {}, d = {};
  if (has) factors = read_pack<kWide>(gamma + column, wide);
  if (has && begin < end) {
    v = read_pack<kWide>(x + begin * chunks.columns + column, wide);
    d = read_pack<kWide>(dy + begin * chunks.columns + column, wide);
  }
  double of_gamma[kWide] = {}, of_beta[kWide] = {};
  for (std::int64_t r = begin; r < end; ++r) {
    const std::int64_t at = r * chunks.columns + column;
    Pack<kWide> next_v = {}, next_d = {}, m = {};
    if (has && r + 1 < end) {
      next_v = read_pack<kWide>(x + at + chunks.columns, wide);
      next_d = read_pack<kWide>(dy + at + chunks.columns, wide);
    }
    if (adds) m = read_pack<kWide>(more + at, wide);
    const float average = mean[r], rstd = inverse_deviation(variance[r], epsilon);
    double plain = 0, along = 0;
    if (has) {
#pragma unroll
      for (int e = 0; e < kWide; ++e) {
        const float z = (v.of[e] - average) * rstd;
        const auto sent = static_cast<double>(d.of[e] * factors.of[e]);
        plain += sent;
        along += sent * z;
        of_gamma[e] += static_cast<double>(d.of[e] * z);
        of_beta[e] += static_cast<double>(d.of[e]);
      }
    }
    plain = warp_reduce(plain);
    along = warp_reduce(along);
    double(&both)[2][kWarps] = shared[r % 2];
    if (lane == 0) {
      both[0][warp] = plain;
      both[1][warp] = along;
    }
    __syncthreads();
    const auto constant = static_cast<float>(warp_reduce<kWarps>(both[0][lane % kWarps]) * per_n);
    const auto slope = static_cast<float>(warp_reduce<kWarps>(both[1][lane % kWarps]) * per_n);
    if (has) {
      Pack<kWide> out;
#pragma unroll
      for (int e = 0; e < kWide; ++e) {
        const float z = (v.of[e] - average) * rstd;
        out.of[e] = rstd * (d.of[e] * factors.of[e] - constant - z * slope);
        if (adds) out.of[e] += m.of[e];
      }
      write_pack<kWide>(dx + at, out, wide);
    }
    v = next_v;
    d = next_d;
  }
  if (!has) return;
  double* const to = sums + 2 * blockIdx.x * chunks.columns + column;
#pragma unroll
  for (int e = 0; e < kWide; ++e) {
    to[e] = of_gamma[e];
    to[chunks.columns + e] = of_beta[e];
  }
}

// The same of halves (sums.cuh): a row's two sums are trees of f32, as what they end in is written
// as a half; the sums over rows are f32 for eight rows at a time, and then wait as f64 in shared
// memory, of which a thread has its own part. A block has `groups` rows at once, each by as many
// threads as a row has packs of eight, filled up to whole warps. kAligned tells how packs are read,
// which changes no bits.
constexpr int kMostOfHalves = 256, kRun = 8;

template <bool kAligned, typename T>
__global__ void __launch_bounds__(kMostOfHalves, 3)
    gradients_of_chunks_of_halves(const T* x, const float* gamma, const float* mean,
                                  const float* variance, const T* dy, const T* more, float epsilon,
                                  int groups, Chunks chunks, T* dx, double* sums) {
  constexpr int kWidth = kWideOf<T>;
  extern __shared__ double kept[];                       // (2, kWidth, threads)
  __shared__ float2 of_warps[2][kMostOfHalves / kWarp];  // of rows in turn: one barrier is enough
  const int threads = static_cast<int>(blockDim.x), each = threads / groups, warps = each / kWarp;
  const int me = static_cast<int>(threadIdx.x), group = me / each;
  const int column = me % each * kWidth;
  const bool has = column < chunks.columns;
  const std::int64_t begin = blockIdx.x * chunks.rows_each;
  const std::int64_t end = min(begin + chunks.rows_each, chunks.rows);
  const auto per_n = static_cast<float>(1.0 / static_cast<double>(chunks.columns));
  const auto slot = [&](int which, int e) -> double& {
    return kept[(which * kWidth + e) * threads + me];
  };
  const bool adds = has && more != nullptr;
  Pack<kWidth> factors = {}, v = {}, d = {};
  AsRead<kWidth, T> m = {};
  if (has) factors = read_pack<kWidth>(gamma + column, kAligned);
  if (has && begin + group < end) {
    const std::int64_t at = (begin + group) * chunks.columns + column;
    v = read_pack<kWidth>(x + at, kAligned);
    d = read_pack<kWidth>(dy + at, kAligned);
    if (adds) m = read_as_is<kWidth>(more + at, kAligned);
  }
#pragma unroll
  for (int e = 0; e < kWidth; ++e) slot(0, e) = slot(1, e) = 0;
  float of_gamma[kWidth] = {}, of_beta[kWidth] = {};
  const auto keep = [&] {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      slot(0, e) += static_cast<double>(of_gamma[e]);
      slot(1, e) += static_cast<double>(of_beta[e]);
      of_gamma[e] = of_beta[e] = 0;
    }
  };
  int turn = 0;
  for (std::int64_t first = begin; first < end; first += groups, ++turn) {
    const std::int64_t r = first + group, at = r * chunks.columns + column;
    const bool mine = has && r < end;
    AsRead<kWidth, T> next_v = {}, next_d = {}, next_m = {};
    if (has && r + groups < end) {
      const std::int64_t next = at + groups * chunks.columns;
      next_v = read_as_is<kWidth>(x + next, kAligned);
      next_d = read_as_is<kWidth>(dy + next, kAligned);
      if (adds) next_m = read_as_is<kWidth>(more + next, kAligned);
    }
    const float average = r < end ? mean[r] : 0.0f;
    const float rstd = r < end ? inverse_deviation(variance[r], epsilon) : 0.0f;
    float plain = 0, along = 0;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) {
      const float z = (v.of[e] - average) * rstd, sent = d.of[e] * factors.of[e];
      plain += sent;
      along += sent * z;
      of_gamma[e] += d.of[e] * z;
      of_beta[e] += d.of[e];
    }
    plain = warp_reduce(plain);
    along = warp_reduce(along);
    float2* const of_row = of_warps[turn % 2] + group * warps;
    if (me % kWarp == 0) of_row[me % each / kWarp] = {plain, along};
    __syncthreads();
    float constant = 0, slope = 0;
    for (int w = 0; w < warps; ++w) {
      constant += of_row[w].x;
      slope += of_row[w].y;
    }
    constant *= per_n;
    slope *= per_n;
    if (mine) {
      const Pack<kWidth> addends = m.widened();
      Pack<kWidth> out;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) {
        const float z = (v.of[e] - average) * rstd;
        out.of[e] = rstd * (d.of[e] * factors.of[e] - constant - z * slope);
        if (adds) out.of[e] += addends.of[e];
      }
      write_pack<kWidth>(dx + at, out, kAligned);
    }
    if (turn % kRun == kRun - 1) keep();
    v = next_v.widened();
    d = next_d.widened();
    m = next_m;
  }
  keep();
  __syncthreads();
  if (group != 0 || !has) return;
  double* const to = sums + 2 * blockIdx.x * chunks.columns + column;
#pragma unroll
  for (int e = 0; e < kWidth; ++e) {
    double first = 0, second = 0;
    for (int g = 0; g < groups; ++g) {
      first += kept[e * threads + g * each + me];
      second += kept[(kWidth + e) * threads + g * each + me];
    }
    to[e] = first;
    to[chunks.columns + e] = second;
  }
}

constexpr int kAddBlock = 1024;

// Block (x, y): 32 columns of gamma's or beta's gradient, the chunks shared by the warps.
__global__ void __launch_bounds__(kAddBlock)
    add_chunks(const double* sums, Chunks chunks, float* dgamma, float* dbeta) {
  __shared__ double shared[kAddBlock];
  const Tile tile{.rows = kAddBlock / kWarp, .columns = kWarp};
  const TileThread me(tile);
  const std::int64_t column = static_cast<std::int64_t>(blockIdx.x) * kWarp + me.column;
  double sum = 0;
  if (column < chunks.columns) {
#pragma unroll 8
    for (std::int64_t k = me.row; k < chunks.count; k += kAddBlock / kWarp) {
      sum += sums[(2 * k + blockIdx.y) * chunks.columns + column];
    }
  }
  sum = sum_tile(sum, tile, shared);
  if (me.row == 0 && column < chunks.columns) {
    (blockIdx.y == 0 ? dgamma : dbeta)[column] = static_cast<float>(sum);
  }
}

template <typename T>
class CudaLayerNorm final : public LayerNorm {
 public:
  CudaLayerNorm(std::int64_t rows, std::int64_t columns, float epsilon)
      : block_(block_of(columns)),
        chunks_(block_ > 0 ? Chunks::of(rows, columns, kLeastRows, kThreadsOfAll / block_)
                           : Chunks::of(rows, columns, 64, 128)),
        epsilon_(epsilon) {}

  std::size_t scratch_bytes() const override { return chunks_.bytes(); }
  bool adds_in_place() const override { return true; }

  void forward(Stream& s, const Tensor& x, const Tensor& gamma, const Tensor& beta, Tensor y,
               Tensor mean, Tensor variance, Tensor) override {
    const bool wide =
        aligned(x.data) && aligned(gamma.data) && aligned(beta.data) && aligned(y.data);
    for_part<T>(chunks_.columns, [&]<class Part>(PartTag<Part>) {
      launch_rows<Part, T>(s, "layer_norm", normalise<Part, T>, chunks_.rows, chunks_.columns, 1,
                           wide, x.as<T>(), gamma.as<float>(), beta.as<float>(), epsilon_,
                           y.as<T>(), mean.as<float>(), variance.as<float>());
    });
  }

  void backward(Stream& s, const Tensor& x, const Tensor& gamma, const Tensor& mean,
                const Tensor& variance, const Tensor& dy, const Tensor& more_dx, Tensor dx,
                Tensor dgamma, Tensor dbeta, Tensor scratch) override {
    const bool wide = aligned(x.data) && aligned(gamma.data) && aligned(dy.data) &&
                      aligned(more_dx.data) && aligned(dx.data);
    if (chunks_.columns == 0) return;
    const OnStream on(s);
    const auto at_once = [&](auto kernel, std::size_t shared, const auto& how) {
      kernel<<<blocks_for(chunks_.count, 1), static_cast<unsigned>(block_), shared, on.stream>>>(
          x.as<T>(), gamma.as<float>(), mean.as<float>(), variance.as<float>(), dy.as<T>(),
          more_dx.as<T>(), epsilon_, how, chunks_, dx.as<T>(), scratch.as<double>());
      check_launch("layer_norm backward");
    };
    if (block_ == 0) {
      apart(s, on, x, gamma, mean, variance, dy, more_dx, wide, dx, scratch);
    } else if constexpr (!std::is_same_v<T, float>) {
      const int groups = block_ / threads_of_row(chunks_.columns);
      const auto kernel =
          wide ? gradients_of_chunks_of_halves<true, T> : gradients_of_chunks_of_halves<false, T>;
      at_once(kernel, static_cast<std::size_t>(block_ * 2 * kWideOf<T>) * sizeof(double), groups);
    } else if (block_ == 64) {
      at_once(gradients_of_chunks<64>, 0, wide);
    } else if (block_ == 128) {
      at_once(gradients_of_chunks<128>, 0, wide);
    } else if (block_ == 256) {
      at_once(gradients_of_chunks<256>, 0, wide);
    } else {
      at_once(gradients_of_chunks<512>, 0, wide);
    }
    const dim3 blocks(blocks_for(chunks_.columns, kWarp), 2);
    add_chunks<<<blocks, kAddBlock, 0, on.stream>>>(scratch.as<double>(), chunks_,
                                                    dgamma.as<float>(), dbeta.as<float>());
    check_launch("layer_norm backward, gamma and beta");
  }

 private:
  static constexpr bool kHalves = !std::is_same_v<T, float>;
  // Of halves as many as a large chip runs at once.
  static constexpr std::int64_t kThreadsOfAll = kHalves ? 128 * 3 * kMostOfHalves : 512 * 256;
  static constexpr std::int64_t kLeastRows = kHalves ? 16 : 8;

  // Of halves, with a pack each, and whole warps.
  static int threads_of_row(std::int64_t columns) {
    return static_cast<int>(ceil_div(columns, kWarp * kWideOf<T>)) * kWarp;
  }

  // Threads of a block that has a pack of a row each; 0 where rows are too long or no packs.
  static int block_of(std::int64_t columns) {
    if (kHalves) {
      if (columns == 0 || columns % kWideOf<T> != 0 || columns > kMostOfHalves * kWideOf<T>)
        return 0;
      const int threads = threads_of_row(columns);
      return kMostOfHalves / threads * threads;
    }
    if (columns == 0 || columns % kWide != 0 || columns > 512 * kWide) return 0;
    int threads = 64;
    while (threads * kWide < columns) threads *= 2;
    return threads;
  }

  // The gradient of x, and the sums of the chunks after it.
  void apart(Stream& s, const OnStream& on, const Tensor& x, const Tensor& gamma,
             const Tensor& mean, const Tensor& variance, const Tensor& dy, const Tensor& more_dx,
             bool wide, const Tensor& dx, const Tensor& scratch) const {
    for_part<T>(chunks_.columns, [&]<class Part>(PartTag<Part>) {
      launch_rows<Part, T>(s, "layer_norm backward", gradient_of_x<Part, T>, chunks_.rows,
                           chunks_.columns, 2, wide, x.as<T>(), gamma.as<float>(), mean.as<float>(),
                           variance.as<float>(), dy.as<T>(), more_dx.as<T>(), epsilon_, dx.as<T>());
    });
    if (chunks_.columns % kWide == 0) {
      sum<kWide>(on, x, mean, variance, dy, scratch.as<double>());
    } else {
      sum<1>(on, x, mean, variance, dy, scratch.as<double>());
    }
    check_launch("layer_norm backward, sums of chunks");
  }

  template <int kWidth>
  void sum(const OnStream& on, const Tensor& x, const Tensor& mean, const Tensor& variance,
           const Tensor& dy, double* sums) const {
    const dim3 blocks(blocks_for(chunks_.columns, kWarp * kWidth),
                      static_cast<unsigned>(chunks_.count));
    sum_chunks<kWidth><<<blocks, kThreads, 0, on.stream>>>(
        x.as<T>(), mean.as<float>(), variance.as<float>(), dy.as<T>(), epsilon_,
        aligned(x.data) && aligned(dy.data), chunks_, sums);
  }

  int block_;
  Chunks chunks_;
  float epsilon_;
};

}  // namespace

std::unique_ptr<LayerNorm> CudaKernels::make_layer_norm(std::int64_t rows, std::int64_t columns,
                                                        float epsilon, DType stored) {
  std::unique_ptr<LayerNorm> made;
  for_stored(stored, [&]<typename T>(Stored<T>) {
    made = std::make_unique<CudaLayerNorm<T>>(rows, columns, epsilon);
  });
  return made;
}

}  // namespace peal::cuda
