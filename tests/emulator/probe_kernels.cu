// Kernels that are right or wrong on purpose, for emulator_test.cpp.
#include "core/kernels/cuda/launch.cuh"
#include "tests/emulator/probe_kernels.h"

namespace peal::emulator {
namespace {

using cuda::OnStream;

// to[i] = from[n - 1 - i], by way of shared memory.
template <bool kWaits>
__global__ void reverse_kernel(const float* from, float* to) {
  __shared__ float held[1024];
  held[threadIdx.x] = from[threadIdx.x];
  if (kWaits) __syncthreads();
  to[threadIdx.x] = held[blockDim.x - 1 - threadIdx.x];
}

__global__ void first_write_kernel(float* to) {
  extern __shared__ float room[];
  __shared__ float held, kept;
  if (blockIdx.x == 0) held = kept = room[0] = 1;
  to[3 * blockIdx.x] = held, to[3 * blockIdx.x + 1] = kept, to[3 * blockIdx.x + 2] = room[0];
}

__global__ void number_kernel(int* to) {
  const auto at = [](uint3 of, dim3 size) { return of.x + size.x * (of.y + size.y * of.z); };
  const unsigned block = at(blockIdx, gridDim), threads = blockDim.x * blockDim.y * blockDim.z;
  const unsigned number = block * threads + at(threadIdx, blockDim);
  to[number] += static_cast<int>(number);
}

template <int kLanes>
__global__ void warp_kernel(const double* from, double* sums, unsigned* votes) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  sums[i] = cuda::warp_reduce<kLanes>(from[i]);
  votes[i] = __ballot_sync(0xffffffffu, from[i] > 0);
}

__global__ void block_kernel(const double* from, double* sums, int* counts) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  sums[i] = cuda::block_reduce(from[i]);
  counts[i] = __syncthreads_count(from[i] > 0);
}

__global__ void wait_kernel(Fault fault) {
  if (fault == Fault::half_waits && threadIdx.x % 2 == 0) __syncthreads();
  if (fault == Fault::others_end && threadIdx.x != 0) return;
  if (fault == Fault::others_end) __syncthreads();
  if (fault == Fault::warp_parts && threadIdx.x % 2 == 0) __syncwarp();
  if (fault == Fault::warp_parts && threadIdx.x % 2 == 1) __ballot_sync(0xffffffffu, true);
}

__global__ void store_kernel(float* to, int at) {
  cuda::Pack<4> pack{};
  cuda::store_pack(to + at, pack);
}

}  // namespace

void reverse(Stream& s, bool waits, unsigned n, const float* from, float* to) {
  const OnStream on(s);
  if (waits) {
    reverse_kernel<true><<<1, n, 0, on.stream>>>(from, to);
  } else {
    reverse_kernel<false><<<1, n, 0, on.stream>>>(from, to);
  }
}

void first_write(Stream& s, unsigned blocks, float* to) {
  const OnStream on(s);
  first_write_kernel<<<blocks, 1, sizeof(float), on.stream>>>(to);
}

void number(Stream& s, dim3 blocks, dim3 threads, std::size_t shared_bytes, int* to) {
  const OnStream on(s);
  number_kernel<<<blocks, threads, shared_bytes, on.stream>>>(to);
}

void warps(Stream& s, unsigned blocks, unsigned threads, bool eights, const double* from,
           double* sums, unsigned* votes) {
  const OnStream on(s);
  const auto kernel = eights ? warp_kernel<8> : warp_kernel<32>;
  kernel<<<blocks, threads, 0, on.stream>>>(from, sums, votes);
}

void blocks(Stream& s, unsigned count, const double* from, double* sums, int* counts) {
  const OnStream on(s);
  block_kernel<<<count, cuda::kThreads, 0, on.stream>>>(from, sums, counts);
}

void wait(Stream& s, Fault fault) {
  const OnStream on(s);
  wait_kernel<<<2, 64, 0, on.stream>>>(fault);
}

void store(Stream& s, float* to, int at) {
  const OnStream on(s);
  store_kernel<<<1, 1, 0, on.stream>>>(to, at);
}

void allow(std::size_t shared_bytes) {
  cudaFuncSetAttribute(reinterpret_cast<const void*>(number_kernel),
                       cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
}

}  // namespace peal::emulator
