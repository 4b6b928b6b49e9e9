#include <algorithm>

#include "comm/nccl/sum_kernels.h"
#include "core/device/cuda/cuda_device.h"

namespace peal::cuda {
namespace {

constexpr std::size_t kAccess = 16;  // bytes that a thread reads and writes at once
constexpr int kThreads = 256;
constexpr std::size_t kMostBlocks = 1024;

// f(first, lanes): the elements that this thread has, some at a time and the last one by one.
template <int kLanes, typename Many, typename One>
__device__ void for_elements(std::size_t count, const Many& many, const One& one) {
  const std::size_t threads = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (; i * kLanes < count; i += threads) {
    const std::size_t first = i * kLanes;
    if (first + kLanes <= count) {
      many(first);
    } else {
      for (std::size_t k = first; k < count; ++k) one(k);
    }
  }
}

template <typename T, int kLanes>
__global__ void sum_kernel(SumSteps steps, SumSources sources, T* y, std::size_t count) {
  for_elements<kLanes>(
      count, [&](std::size_t first) { sum_lanes<T, kLanes>(steps, sources, y, first); },
      [&](std::size_t k) { sum_lanes<T, 1>(steps, sources, y, k); });
}

template <typename T, int kLanes>
__global__ void divide_kernel(T* y, std::size_t count, int divisor) {
  for_elements<kLanes>(
      count, [&](std::size_t first) { divide_lanes<T, kLanes>(y, divisor, first); },
      [&](std::size_t k) { divide_lanes<T, 1>(y, divisor, k); });
}

unsigned blocks_for(std::size_t units) {
  return static_cast<unsigned>(std::min((units + kThreads - 1) / kThreads, kMostBlocks));
}

bool aligned(const void* p) {
  return reinterpret_cast<std::uintptr_t>(p) % kAccess == 0;
}

bool aligned(const SumSources& sources) {
  for (int i = 0; i < sources.own_count; ++i) {
    if (!aligned(sources.own[i])) return false;
  }
  return aligned(sources.arrived) && sources.stride % kAccess == 0;
}

}  // namespace

void launch_sum(Stream& s, const SumSteps& steps, const SumSources& sources, std::byte* y,
                std::size_t count, DType dtype) {
  const Current current(s.device());
  const auto stream = static_cast<cudaStream_t>(s.handle());
  const bool wide = aligned(y) && aligned(sources);
  with_element(dtype, [&]<typename T>() {
    constexpr int kLanes = kAccess / sizeof(T);
    T* to = reinterpret_cast<T*>(y);
    if (wide) {
      sum_kernel<T, kLanes><<<blocks_for((count + kLanes - 1) / kLanes), kThreads, 0, stream>>>(
          steps, sources, to, count);
    } else {
      sum_kernel<T, 1><<<blocks_for(count), kThreads, 0, stream>>>(steps, sources, to, count);
    }
  });
  check_launch("sum_kernel");
}

void launch_divide(Stream& s, std::byte* y, std::size_t count, DType dtype, int divisor) {
  const Current current(s.device());
  const auto stream = static_cast<cudaStream_t>(s.handle());
  const bool wide = aligned(y);
  with_element(dtype, [&]<typename T>() {
    constexpr int kLanes = kAccess / sizeof(T);
    T* to = reinterpret_cast<T*>(y);
    if (wide) {
      divide_kernel<T, kLanes>
          <<<blocks_for((count + kLanes - 1) / kLanes), kThreads, 0, stream>>>(to, count, divisor);
    } else {
      divide_kernel<T, 1><<<blocks_for(count), kThreads, 0, stream>>>(to, count, divisor);
    }
  });
  check_launch("divide_kernel");
}

}  // namespace peal::cuda
