// Each row of dtable gathers its own gradients, in the order of their ids. For that every row needs
// the list of its ids, and until it is summed it has memory to hold one: row v of C elements begins
// as the number of ids that are v and then holds C-1 of their positions as integers, which came in
// any order and are sorted when they are used. Where a row is too short for its list, its block
// reads all ids instead: cheap for the few frequent ids of a vocabulary, slow for tables of a few
// columns whose rows are all used often.
//
// Cost beside dy and the rows that are written: dtable once, to make it 0.
#include <algorithm>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

constexpr int kLongest = 1024;  // list that is sorted

__global__ void __launch_bounds__(kThreads)
    make_lists(const std::int32_t* ids, std::int64_t n, std::int64_t columns, unsigned* table) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  unsigned* row = table + ids[i] * columns;
  const unsigned at = atomicAdd(row, 1u) + 1;
  if (at < columns) row[at] = static_cast<unsigned>(i);
}

// sum += dy[order[0]], dy[order[1]], ... at one pack of columns, several of which are read at once.
template <int kWidth, typename T>
__device__ void add_rows(const T* dy, std::int64_t columns, bool wide, const unsigned* order, int n,
                         Pack<kWidth>& sum) {
  constexpr int kAtOnce = 8;
  for (int i = 0; i < n; i += kAtOnce) {
    Pack<kWidth> rows[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k < n) rows[k] = read_pack<kWidth>(dy + order[i + k] * columns, wide);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k >= n) break;
#pragma unroll
      for (int e = 0; e < kWidth; ++e) sum.of[e] += rows[k].of[e];
    }
  }
}

// order = list, sorted; its numbers are all different.
__device__ void sort(const unsigned* list, int n, unsigned* order) {
  for (int i = static_cast<int>(threadIdx.x); i < n; i += kThreads) {
    const unsigned mine = list[i];
    int before = 0;
    for (int k = 0; k < n; ++k) before += list[k] < mine ? 1 : 0;
    order[before] = mine;
  }
}

// order = which of the kThreads ids from `first` on are v; returns how many.
__device__ int find(const std::int32_t* ids, std::int64_t first, std::int64_t n, std::int64_t v,
                    unsigned* order) {
  constexpr int kWarps = kThreads / kWarp;
  __shared__ int of_warp[kWarps];
  const std::int64_t i = first + threadIdx.x;
  const bool mine = i < n && ids[i] == v;
  const unsigned found = __ballot_sync(0xffffffffu, mine);
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  if (lane == 0) of_warp[warp] = __popc(found);
  __syncthreads();
  int before = 0, all = 0;
#pragma unroll
  for (int w = 0; w < kWarps; ++w) {
    before += w < warp ? of_warp[w] : 0;
    all += of_warp[w];
  }
  if (mine) order[before + __popc(found & ((1u << lane) - 1))] = static_cast<unsigned>(i);
  __syncthreads();
  return all;
}

// A block for each row, in parts of kThreads packs.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kThreads)
    sum_lists(const std::int32_t* ids, std::int64_t n, const T* dy, std::int64_t columns, bool wide,
              float* table) {
  __shared__ unsigned list[kLongest], order[kLongest];
  const std::int64_t v = blockIdx.x;
  float* row = table + v * columns;
  const unsigned uses = *reinterpret_cast<const unsigned*>(row);
  if (uses == 0) return;  // and the row is 0
  const bool listed = uses <= kLongest && uses < columns;
  if (listed) {
    const int length = static_cast<int>(uses);
    for (int i = static_cast<int>(threadIdx.x); i < length; i += kThreads) {
      list[i] = reinterpret_cast<const unsigned*>(row)[1 + i];
    }
    __syncthreads();
    sort(list, length, order);
  }
  __syncthreads();  // the list has been read, and sorted
  for (std::int64_t part = 0; part < columns; part += kThreads * kWidth) {
    const std::int64_t column = part + static_cast<int>(threadIdx.x) * kWidth;
    const bool inside = column < columns;
    Pack<kWidth> sum = {};
    if (listed) {
      if (inside) {
        add_rows<kWidth>(dy + column, columns, wide, order, static_cast<int>(uses), sum);
      }
    } else {
      for (std::int64_t first = 0; first < n; first += kThreads) {
        const int length = find(ids, first, n, v, order);
        if (inside) add_rows<kWidth>(dy + column, columns, wide, order, length, sum);
        __syncthreads();  // before `order` is written again
      }
    }
    if (inside) write_pack<kWidth>(row + column, sum, wide);
  }
}

}  // namespace

void CudaKernels::embedding_backward(Stream& s, const Tensor& ids, const Tensor& dy,
                                     Tensor dtable) {
  const std::int64_t n = ids.numel(), columns = dtable.shape[-1], entries = dtable.numel();
  if (entries == 0) return;
  const OnStream on(s);
  cudaMemsetAsync(dtable.data, 0, dtable.bytes(), on.stream);
  check_launch("embedding_backward, zeros");
  if (n == 0) return;
  make_lists<<<blocks_for(n, kThreads), kThreads, 0, on.stream>>>(ids.as<std::int32_t>(), n,
                                                                  columns, dtable.as<unsigned>());
  check_launch("embedding_backward, lists");
  const bool wide = aligned(dy.data) && aligned(dtable.data);
  for_stored(dy.dtype, [&]<typename T>(Stored<T>) {
    const auto kernel = columns % kWideOf<T> == 0 ? sum_lists<kWideOf<T>, T> : sum_lists<1, T>;
    kernel<<<blocks_for(entries / columns, 1), kThreads, 0, on.stream>>>(
        ids.as<std::int32_t>(), n, dy.as<T>(), columns, wide, dtable.as<float>());
  });
  check_launch("embedding_backward");
}

}  // namespace peal::cuda
