// Attention of one position over a cache of keys and values, in f32. A block has some keys of a
// head (Dao et al. 2023, "Flash-Decoding"), so that one text fills the chip; a second kernel puts
// the parts of a head together, in their order. How many blocks there are follows from the context,
// not from the position, which is known on the device alone: those behind it have nothing to do.
#include <cmath>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

constexpr int kKeys = 64;                     // of a block
constexpr int kColumns = 64;                  // that a block adds up at a time, in
constexpr int kGroups = kThreads / kColumns;  // groups of threads that share the keys

struct StepOf {
  std::int64_t context, heads, width, depth;  // T, H, C, D
  int chunks;                                 // of kKeys keys
  float scale;                                // 1 / sqrt(D)

  // Of a part: the largest score, the sum of exponentials against it, and these times v.
  __host__ __device__ std::int64_t part_floats() const { return depth + 2; }
};

// scores[u] = q . k[u] / sqrt(D) of this block's keys, -infinity behind the last: a warp a key.
__device__ void step_scores(const StepOf& of, const float* q, const float* k, int keys,
                            float* scores) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int u = static_cast<int>(threadIdx.x) / kWarp; u < kKeys; u += kThreads / kWarp) {
    float dot = 0;
    if (u < keys) {
      const float* row = k + u * of.depth;
      for (std::int64_t d = lane; d < of.depth; d += kWarp) dot = fmaf(q[d], row[d], dot);
    }
    dot = warp_reduce(dot);
    if (lane == 0) scores[u] = u < keys ? dot * of.scale : -INFINITY;
  }
}

// to[d] = sum over u of p[u] v[u][d]: each group has every kGroups-th key.
__device__ void step_values(const StepOf& of, const float* p, const float* v, int keys, float* to) {
  __shared__ float sums[kThreads];
  const int group = static_cast<int>(threadIdx.x) / kColumns,
            column = static_cast<int>(threadIdx.x) % kColumns;
  for (std::int64_t first = 0; first < of.depth; first += kColumns) {
    const std::int64_t d = first + column;
    float sum = 0;
    if (d < of.depth) {
      for (int u = group; u < keys; u += kGroups) sum = fmaf(p[u], v[u * of.depth + d], sum);
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (group == 0 && d < of.depth) {
      for (int g = 1; g < kGroups; ++g) sum += sums[g * kColumns + column];
      to[d] = sum;
    }
    __syncthreads();
  }
}

// Block (b, h, chunk). The one that has key t stores it and its value first.
__global__ void __launch_bounds__(kThreads)
    attention_step_parts(StepOf of, const float* qkv, const std::int32_t* position, float* cache,
                         float* parts) {
  const std::int64_t head = blockIdx.x / of.chunks, b = head / of.heads, h = head % of.heads;
  const std::int64_t t = *position,
                     begin = static_cast<std::int64_t>(blockIdx.x % of.chunks) * kKeys;
  if (begin > t) return;
  const int keys = static_cast<int>(t + 1 - begin < kKeys ? t + 1 - begin : kKeys);
  const float* q = qkv + b * 3 * of.width + h * of.depth;
  float* k = cache + ((b * 2 * of.heads + h) * of.context + begin) * of.depth;
  float* v = k + of.heads * of.context * of.depth;
  if (begin + keys == t + 1) {
    const std::int64_t last = (keys - 1) * of.depth;
    for (std::int64_t d = threadIdx.x; d < of.depth; d += kThreads) {
      k[last + d] = q[of.width + d];
      v[last + d] = q[2 * of.width + d];
    }
    __syncthreads();
  }
  __shared__ float p[kKeys];
  step_scores(of, q, k, keys, p);
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  static_assert(kKeys == 2 * kWarp);
  const float left = p[lane], right = p[lane + kWarp];
  const float largest = warp_reduce(fmaxf(left, right), Larger());
  const float e_left = expf(left - largest), e_right = expf(right - largest);
  const float sum = warp_reduce(e_left + e_right);
  __syncthreads();
  float* part = parts + static_cast<std::int64_t>(blockIdx.x) * of.part_floats();
  if (threadIdx.x < kWarp) {
    p[lane] = e_left;
    p[lane + kWarp] = e_right;
  }
  if (threadIdx.x == 0) {
    part[0] = largest;
    part[1] = sum;
  }
  __syncthreads();
  step_values(of, p, v, keys, part + 2);
}

// A block a head: y = its parts, each scaled to the largest score of all, over their sum.
__global__ void __launch_bounds__(kThreads)
    attention_step_join(StepOf of, const std::int32_t* position, const float* parts, float* y) {
  const std::int64_t head = blockIdx.x;
  const int count = *position / kKeys + 1;
  const float* first = parts + head * of.chunks * of.part_floats();
  float largest = -INFINITY;
  for (int c = 0; c < count; ++c) largest = fmaxf(largest, first[c * of.part_floats()]);
  for (std::int64_t d = threadIdx.x; d < of.depth; d += kThreads) {
    float sum = 0, out = 0;
    for (int c = 0; c < count; ++c) {
      const float* part = first + c * of.part_floats();
      const float factor = expf(part[0] - largest);
      sum = fmaf(part[1], factor, sum);
      out = fmaf(part[2 + d], factor, out);
    }
    y[head * of.depth + d] = out / sum;
  }
}

class CachedAttentionStep final : public AttentionStep {
 public:
  explicit CachedAttentionStep(const AttentionStepSpec& spec)
      : of_{spec.context,
            spec.heads,
            spec.width,
            spec.width / spec.heads,
            static_cast<int>(ceil_div(spec.context, kKeys)),
            1.0f / std::sqrt(static_cast<float>(spec.width / spec.heads))},
        heads_(spec.batch * spec.heads) {}

  std::size_t scratch_bytes() const override {
    return static_cast<std::size_t>(heads_ * of_.chunks * of_.part_floats()) * sizeof(float);
  }

  void run(Stream& s, const Tensor& qkv, const Tensor& position, Tensor cache, Tensor y,
           Tensor scratch) override {
    const OnStream on(s);
    attention_step_parts<<<blocks_for(heads_ * of_.chunks, 1), kThreads, 0, on.stream>>>(
        of_, qkv.as<float>(), position.as<std::int32_t>(), cache.as<float>(), scratch.as<float>());
    check_launch("attention_step, parts");
    attention_step_join<<<blocks_for(heads_, 1), kThreads, 0, on.stream>>>(
        of_, position.as<std::int32_t>(), scratch.as<float>(), y.as<float>());
    check_launch("attention_step, join");
  }

 private:
  StepOf of_;
  std::int64_t heads_;  // B * H
};

}  // namespace

std::unique_ptr<AttentionStep> CudaKernels::make_attention_step(const AttentionStepSpec& spec) {
  return std::make_unique<CachedAttentionStep>(spec);
}

}  // namespace peal::cuda
