// Attention by tiles of queries and keys (Dao et al. 2022), in f32: scores live in shared memory
// alone, and backward computes them again. A block has a tile of queries and walks over the keys
// that these see, or a tile of keys and walks over the queries that see them, always in one order,
// so every sum has a fixed shape. Neither library computes this in f32: cuDNN's wants half types.
// Halves that cuDNN's does not take are widened in shared memory.
#include <cmath>

#include "core/base/error.h"
#include "core/kernels/cuda/attention.cuh"
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/flash_attention.h"

namespace peal::cuda {
namespace {

// y = softmax(scores) v for a tile of queries. The largest score so far is what exponentials are
// taken against; what was summed before a larger one came is scaled down.
template <class Size, typename T>
__global__ void __launch_bounds__(kThreads)
    attention_forward(AttentionOf of, const T* qkv, T* y, float* log_sums) {
  const AttentionBlock<Size> block(of);
  extern __shared__ float shared[];
  float *const q = shared, *const k = q + Size::kTileFloats, *const v = k + Size::kTileFloats,
               *const p = v + Size::kTileFloats;
  constexpr int kMine = Size::kMine, kColumns = Size::kColumns;
  float sums[kMine] = {}, largest[kMine], out[kMine][kColumns] = {};
  for (int i = 0; i < kMine; ++i) largest[i] = -INFINITY;
  block.load(q, qkv + block.input(0), 3 * of.width, block.tile);
  for (int tile = 0; tile <= block.tile; ++tile) {
    __syncthreads();  // nobody reads the last tile any more
    block.load(k, qkv + block.input(1), 3 * of.width, tile);
    block.load(v, qkv + block.input(2), 3 * of.width, tile);
    __syncthreads();
    float s[kMine][kMine] = {};
    block.dots(q, k, s);
#pragma unroll
    for (int i = 0; i < kMine; ++i) {
      float most = largest[i];
#pragma unroll
      for (int j = 0; j < kMine; ++j) {
        s[i][j] = block.sees(block.tile, i, tile, j) ? s[i][j] * of.scale : -INFINITY;
        most = fmaxf(most, s[i][j]);
      }
      most = warp_reduce<kSide>(most, Larger());
      const float shrink = expf(largest[i] - most);
      largest[i] = most;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < kMine; ++j) {
        const float e = expf(s[i][j] - most);
        sum += e;
        p[block.row(i) * Size::kScoreStride + block.column(j)] = e;
      }
      sums[i] = fmaf(sums[i], shrink, warp_reduce<kSide>(sum));
#pragma unroll
      for (int c = 0; c < kColumns; ++c) out[i][c] *= shrink;
    }
    __syncthreads();
    block.add_product(p, v, out);
  }
#pragma unroll
  for (int i = 0; i < kMine; ++i) {
    const float inverse = 1.0f / sums[i];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) out[i][c] *= inverse;
    const int t = block.time(block.tile, i);
    if (block.x == 0 && t < of.time) log_sums[block.rows() + t] = largest[i] + logf(sums[i]);
  }
  block.store(y + block.output(), of.width, block.tile, out, 1.0f);
}

// dots[t] = dy[t] . y[t] of every row of every head: a warp a row.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_dots(AttentionOf of, const T* y, const T* dy, float* dots) {
  const std::int64_t row =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (row >= of.batch * of.heads * of.time) return;
  const std::int64_t t = row % of.time, h = row / of.time % of.heads, b = row / of.time / of.heads;
  const std::int64_t at = (b * of.time + t) * of.width + h * of.depth;
  float sum = 0;
  for (int d = lane; d < of.depth; d += kWarp) sum = fmaf(widen(y[at + d]), widen(dy[at + d]), sum);
  sum = warp_reduce(sum);
  if (lane == 0) dots[row] = sum;
}

// Of a tile of queries and one of keys, in this thread's places: p, and ds = p * (dp - dots), the
// gradient of the scores.
template <class Size>
__device__ void score_gradients(const AttentionBlock<Size>& block, const AttentionOf& of,
                                int query_tile, int key_tile, const float* q, const float* k,
                                const float* v, const float* dy, const float* log_sums,
                                const float* dots, float (&p)[Size::kMine][Size::kMine],
                                float (&ds)[Size::kMine][Size::kMine]) {
  block.dots(q, k, p);
  block.dots(dy, v, ds);
#pragma unroll
  for (int i = 0; i < Size::kMine; ++i) {
    const int t = block.time(query_tile, i);
    const bool inside = t < of.time;
    const float log_sum = inside ? log_sums[block.rows() + t] : 0;
    const float dot = inside ? dots[block.rows() + t] : 0;
#pragma unroll
    for (int j = 0; j < Size::kMine; ++j) {
      const bool seen = inside && block.sees(query_tile, i, key_tile, j);
      p[i][j] = seen ? expf(p[i][j] * of.scale - log_sum) : 0;
      ds[i][j] = p[i][j] * (ds[i][j] - dot);
    }
  }
}

template <class Size, typename T>
__global__ void __launch_bounds__(kThreads)
    attention_queries(AttentionOf of, const T* qkv, const T* dy, const float* log_sums,
                      const float* dots, T* dqkv) {
  const AttentionBlock<Size> block(of);
  extern __shared__ float shared[];
  float *const q = shared, *const g = q + Size::kTileFloats, *const k = g + Size::kTileFloats,
               *const v = k + Size::kTileFloats, *const ds = v + Size::kTileFloats;
  float out[Size::kMine][Size::kColumns] = {};
  block.load(q, qkv + block.input(0), 3 * of.width, block.tile);
  block.load(g, dy + block.output(), of.width, block.tile);
  for (int tile = 0; tile <= block.tile; ++tile) {
    __syncthreads();
    block.load(k, qkv + block.input(1), 3 * of.width, tile);
    block.load(v, qkv + block.input(2), 3 * of.width, tile);
    __syncthreads();
    float p[Size::kMine][Size::kMine] = {}, gradients[Size::kMine][Size::kMine] = {};
    score_gradients(block, of, block.tile, tile, q, k, v, g, log_sums, dots, p, gradients);
    block.put(ds, gradients);
    __syncthreads();
    block.add_product(ds, k, out);
  }
  block.store(dqkv + block.input(0), 3 * of.width, block.tile, out, of.scale);
}

template <class Size, typename T>
__global__ void __launch_bounds__(kThreads)
    attention_keys(AttentionOf of, const T* qkv, const T* dy, const float* log_sums,
                   const float* dots, T* dqkv) {
  const AttentionBlock<Size> block(of);
  extern __shared__ float shared[];
  float *const k = shared, *const v = k + Size::kTileFloats, *const q = v + Size::kTileFloats,
               *const g = q + Size::kTileFloats, *const p = g + Size::kTileFloats,
               *const ds = p + Size::kScoreFloats;
  float dk[Size::kMine][Size::kColumns] = {}, dv[Size::kMine][Size::kColumns] = {};
  block.load(k, qkv + block.input(1), 3 * of.width, block.tile);
  block.load(v, qkv + block.input(2), 3 * of.width, block.tile);
  for (int tile = block.tile; tile < block.tiles; ++tile) {
    __syncthreads();
    block.load(q, qkv + block.input(0), 3 * of.width, tile);
    block.load(g, dy + block.output(), of.width, tile);
    __syncthreads();
    float of_p[Size::kMine][Size::kMine] = {}, gradients[Size::kMine][Size::kMine] = {};
    score_gradients(block, of, tile, block.tile, q, k, v, g, log_sums, dots, of_p, gradients);
    block.put(p, of_p);
    block.put(ds, gradients);
    __syncthreads();
    block.add_transposed(p, g, dv);
    block.add_transposed(ds, q, dk);
  }
  block.store(dqkv + block.input(1), 3 * of.width, block.tile, dk, of.scale);
  block.store(dqkv + block.input(2), 3 * of.width, block.tile, dv, 1.0f);
}

// A kernel may have more than 48 KiB of shared memory only when asked.
void allow(const void* kernel, std::size_t bytes) {
  cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                       static_cast<int>(bytes));
  check_launch("attention, shared memory");
}

template <class Size, typename T>
class TileAttention final : public Attention {
 public:
  TileAttention(const Device& device, const AttentionSpec& spec)
      : of_{spec.batch,
            spec.heads,
            spec.time,
            spec.width,
            spec.width / spec.heads,
            1.0f / std::sqrt(static_cast<float>(spec.width / spec.heads))},
        training_(spec.training) {
    const Current current(device);
    allow(reinterpret_cast<const void*>(attention_forward<Size, T>), kForwardBytes);
    allow(reinterpret_cast<const void*>(attention_queries<Size, T>), kQueriesBytes);
    allow(reinterpret_cast<const void*>(attention_keys<Size, T>), kKeysBytes);
  }

  std::size_t scratch_bytes() const override {
    return training_ ? static_cast<std::size_t>(rows()) * sizeof(float) : 0;
  }

  void forward(Stream& s, const Tensor& qkv, Tensor y, Tensor log_sums, Tensor) override {
    const OnStream on(s);
    attention_forward<Size><<<blocks(), kThreads, kForwardBytes, on.stream>>>(
        of_, qkv.as<T>(), y.as<T>(), log_sums.as<float>());
    check_launch("attention");
  }

  void backward(Stream& s, const Tensor& qkv, const Tensor& y, const Tensor& log_sums,
                const Tensor& dy, Tensor dqkv, Tensor scratch) override {
    const OnStream on(s);
    attention_dots<<<blocks_for(rows(), kThreads / kWarp), kThreads, 0, on.stream>>>(
        of_, y.as<T>(), dy.as<T>(), scratch.as<float>());
    check_launch("attention backward, dots");
    attention_queries<Size><<<blocks(), kThreads, kQueriesBytes, on.stream>>>(
        of_, qkv.as<T>(), dy.as<T>(), log_sums.as<float>(), scratch.as<float>(), dqkv.as<T>());
    check_launch("attention backward, queries");
    attention_keys<Size><<<blocks(), kThreads, kKeysBytes, on.stream>>>(
        of_, qkv.as<T>(), dy.as<T>(), log_sums.as<float>(), scratch.as<float>(), dqkv.as<T>());
    check_launch("attention backward, keys");
  }

 private:
  static constexpr std::size_t kForwardBytes =
      (3 * Size::kTileFloats + Size::kScoreFloats) * sizeof(float);
  static constexpr std::size_t kQueriesBytes =
      (4 * Size::kTileFloats + Size::kScoreFloats) * sizeof(float);
  static constexpr std::size_t kKeysBytes =
      (4 * Size::kTileFloats + 2 * Size::kScoreFloats) * sizeof(float);

  std::int64_t rows() const { return of_.batch * of_.heads * of_.time; }
  unsigned blocks() const {
    return blocks_for(of_.batch * of_.heads * ceil_div(of_.time, Size::kTile), 1);
  }

  AttentionOf of_;
  bool training_;
};

template <typename T>
std::unique_ptr<Attention> make_tiles(const Device& device, const AttentionSpec& spec) {
  const std::int64_t depth = spec.width / spec.heads;
  if (depth <= 32) return std::make_unique<TileAttention<AttentionSize<64, 32>, T>>(device, spec);
  if (depth <= 64) return std::make_unique<TileAttention<AttentionSize<64, 64>, T>>(device, spec);
  if (depth <= 128) return std::make_unique<TileAttention<AttentionSize<32, 128>, T>>(device, spec);
  fail_input("attention", to_string(device), " has heads of up to 128 columns, got ", spec.width,
             " / ", spec.heads, " = ", depth);
}

}  // namespace

std::unique_ptr<Attention> CudaKernels::make_attention(const AttentionSpec& spec) {
  std::unique_ptr<Attention> made = make_flash_attention(device_, spec);
  if (made != nullptr) return made;
  for_stored(spec.stored, [&]<typename T>(Stored<T>) { made = make_tiles<T>(device_, spec); });
  return made;
}

}  // namespace peal::cuda
