// Records that are right are counted by atomics on integers, whose order does not matter: as a
// 32-bit integer in the memory of `count` first, then as the f32 that it becomes.
#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/launch.cuh"

namespace peal::cuda {
namespace {

using Key = unsigned long long;

// Greater for a greater value, and among equals for the one in front. A NaN is less than all,
// but in front it stays: as where the largest is looked for by x > largest.
__device__ Key key_of(float value, std::int64_t column) {
  if (isnan(value)) return column == 0 ? ~Key{0} : Key{0};
  const std::uint32_t bits = __float_as_uint(value + 0.0f);  // -0 is 0
  const std::uint32_t order = bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
  return Key{order} << 32 | static_cast<std::uint32_t>(~static_cast<std::uint32_t>(column));
}

struct GreaterKey {
  __device__ Key operator()(Key a, Key b) const { return a > b ? a : b; }
};

// kGroup threads, a warp or the block, take a record.
template <int kGroup>
__global__ void __launch_bounds__(kThreads)
    count_rows(const float* logits, const std::int32_t* labels, const float* weight,
               std::int64_t records, std::int64_t classes, unsigned* count) {
  const std::int64_t b =
      static_cast<std::int64_t>(blockIdx.x) * (kThreads / kGroup) + threadIdx.x / kGroup;
  const int lane = static_cast<int>(threadIdx.x) % kGroup;
  if (b >= records || !(weight[b] > 0)) return;  // all of the group
  const float* row = logits + b * classes;
  Key best = 0;
#pragma unroll 8
  for (std::int64_t c = lane; c < classes; c += kGroup) {
    best = GreaterKey()(best, key_of(row[c], c));
  }
  if constexpr (kGroup == kWarp) {
    best = warp_reduce(best, GreaterKey());
  } else {
    best = block_reduce<kGroup>(best, GreaterKey());
  }
  const auto first = static_cast<std::int32_t>(~static_cast<std::uint32_t>(best));
  if (lane == 0 && first == labels[b]) atomicAdd(count, 1u);
}

__global__ void __launch_bounds__(kThreads)
    count_sides(const float* logits, const float* targets, const float* weight,
                std::int64_t records, unsigned* count) {
  const std::int64_t b = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool right = b < records && weight[b] > 0 && (logits[b] > 0) == (targets[b] > 0.5f);
  const int of_block = __syncthreads_count(right ? 1 : 0);
  if (threadIdx.x == 0 && of_block > 0) atomicAdd(count, static_cast<unsigned>(of_block));
}

__global__ void as_float(float* count) {
  *count = static_cast<float>(*reinterpret_cast<const unsigned*>(count));
}

// count_into(integer) between 0 and the f32
template <class Count>
void count(const Stream& s, const char* name, Tensor to, Count count_into) {
  const OnStream on(s);
  cudaMemsetAsync(to.data, 0, sizeof(unsigned), on.stream);
  count_into(on, to.as<unsigned>());
  as_float<<<1, 1, 0, on.stream>>>(to.as<float>());
  check_launch(name);
}

}  // namespace

void CudaKernels::count_correct(Stream& s, const Tensor& logits, const Tensor& labels,
                                const Tensor& weight, Tensor count) {
  const std::int64_t records = logits.shape[0], classes = logits.shape[1];
  cuda::count(s, "count_correct", count, [&](const OnStream& on, unsigned* into) {
    if (records == 0) return;
    const auto launch = [&](auto kernel, std::int64_t rows_of_block) {
      kernel<<<blocks_for(records, rows_of_block), kThreads, 0, on.stream>>>(
          logits.as<float>(), labels.as<std::int32_t>(), weight.as<float>(), records, classes,
          into);
    };
    if (classes <= 1024) {
      launch(count_rows<kWarp>, kThreads / kWarp);
    } else {
      launch(count_rows<kThreads>, 1);
    }
  });
}

void CudaKernels::count_correct_binary(Stream& s, const Tensor& logits, const Tensor& targets,
                                       const Tensor& weight, Tensor count) {
  const std::int64_t records = logits.numel();
  cuda::count(s, "count_correct_binary", count, [&](const OnStream& on, unsigned* into) {
    if (records == 0) return;
    count_sides<<<blocks_for(records, kThreads), kThreads, 0, on.stream>>>(
        logits.as<float>(), targets.as<float>(), weight.as<float>(), records, into);
  });
}

}  // namespace peal::cuda
