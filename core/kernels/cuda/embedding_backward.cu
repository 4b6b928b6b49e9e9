// Each row of dtable gathers its own gradients. For that every row needs the list of its ids, and
// until it is summed it has memory to hold one: row v of C elements begins as the number of ids
// that are v and then holds C-1 of their positions as integers, which came in any order and are
// sorted when they are used. A short list is summed by a warp, in the order of ids. A long one (a
// text's commonest token may be a tenth of it) is summed by the whole block: of halves, groups of
// threads take equal parts of it in order, and their sums are added in order; how many groups
// follows from the columns. f32 keeps to the order of ids. Where a row is too short for its list,
// its block reads all ids instead, and groups share what is found in each kBlock of them: cheap for
// the few frequent ids of a vocabulary, slow for tables of a few columns whose rows are all used
// often.
//
// Cost beside dy and the rows that are written: dtable once, to make it 0.
#include <type_traits>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

constexpr int kBlock = 1024, kWarps = kBlock / kWarp;
constexpr int kShort = kWarp;     // list that a warp sums
constexpr int kLongest = kBlock;  // list that is sorted

__global__ void __launch_bounds__(kThreads)
    make_lists(const std::int32_t* ids, std::int64_t n, std::int64_t columns, unsigned* table) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  unsigned* row = table + ids[i] * columns;
  const unsigned at = atomicAdd(row, 1u) + 1;
  if (at < columns) row[at] = static_cast<unsigned>(i);
}

// A pack as it lies in memory: half of the registers of one that is widened.
template <int kWidth, typename T>
struct RawPack {
  static_assert(kWidth == 1 || kWidth == kWideOf<T>);
  std::conditional_t<kWidth == 1, T, uint4> raw;
  __device__ void read(const T* from) { raw = *reinterpret_cast<const decltype(raw)*>(from); }
  __device__ void add_to(Pack<kWidth>& sum) const {
    if constexpr (kWidth == 1) {
      sum.of[0] += widen(raw);
    } else if constexpr (std::is_same_v<T, float>) {
      sum.of[0] += __uint_as_float(raw.x), sum.of[1] += __uint_as_float(raw.y);
      sum.of[2] += __uint_as_float(raw.z), sum.of[3] += __uint_as_float(raw.w);
    } else {
      const unsigned words[] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 two = widen_two<T>(words[w]);
        sum.of[2 * w] += two.x;
        sum.of[2 * w + 1] += two.y;
      }
    }
  }
};

// sum += dy[order[begin]], ..., dy[order[end - 1]] at one pack of columns, several read at once.
template <int kWidth, typename T>
__device__ void add_rows(const T* dy, std::int64_t columns, const unsigned* order, int begin,
                         int end, Pack<kWidth>& sum) {
  constexpr int kAtOnce = 6;  // as many as registers hold
  for (int i = begin; i < end; i += kAtOnce) {
    RawPack<kWidth, T> rows[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k < end) rows[k].read(dy + order[i + k] * columns);
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      if (i + k < end) rows[k].add_to(sum);
    }
  }
}

// order = list, sorted; its numbers are all different. By threads first, first + step, ...
__device__ void sort(const unsigned* list, int n, int first, int step, unsigned* order) {
  for (int i = first; i < n; i += step) {
    const unsigned mine = list[i];
    int before = 0;
    for (int k = 0; k < n; ++k) before += list[k] < mine ? 1 : 0;
    order[before] = mine;
  }
}

// order = which of the kBlock ids from `first` on are v; returns how many.
__device__ int find(const std::int32_t* ids, std::int64_t first, std::int64_t n, std::int64_t v,
                    unsigned* order) {
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

// What a block works with.
template <int kWidth>
struct Room {
  unsigned list[kBlock], order[kBlock];  // of a warp kShort each, or of the block
  unsigned uses[kWarps];
  Pack<kWidth> sums[kBlock];
};

// Row `row`, of `uses` ids, by the whole block: thread (group, pack of columns).
template <int kWidth, typename T>
__device__ void sum_long(const std::int32_t* ids, std::int64_t n, std::int64_t v, const T* dy,
                         std::int64_t columns, int uses, float* row, Room<kWidth>& room) {
  const int me = static_cast<int>(threadIdx.x);
  const bool listed = uses <= kLongest && uses < columns;
  if (listed) {
    for (int i = me; i < uses; i += kBlock) {
      room.list[i] = reinterpret_cast<const unsigned*>(row)[1 + i];
    }
    __syncthreads();
    sort(room.list, uses, me, kBlock, room.order);
  }
  __syncthreads();  // the list has been read, and sorted
  const std::int64_t packs = columns / kWidth;
  const int width = static_cast<int>(packs < kBlock ? packs : kBlock);
  const int groups = std::is_same_v<T, float> ? 1 : kBlock / width;
  const int group = me / width;
  for (std::int64_t part = 0; part < packs; part += width) {
    const std::int64_t column = (part + me % width) * kWidth;
    const bool inside = group < groups && column < columns;
    Pack<kWidth> sum = {};
    const auto add_mine = [&](int length) {
      const int each = (length + groups - 1) / groups;
      const int begin = min(group * each, length), end = min(begin + each, length);
      if (inside) add_rows<kWidth>(dy + column, columns, room.order, begin, end, sum);
    };
    if (listed) {
      add_mine(uses);
    } else {
      for (std::int64_t first = 0; first < n; first += kBlock) {
        add_mine(find(ids, first, n, v, room.order));
        __syncthreads();  // before `order` is written again
      }
    }
    room.sums[me] = sum;
    __syncthreads();
    if (group == 0 && inside) {
      for (int g = 1; g < groups; ++g) {
#pragma unroll
        for (int e = 0; e < kWidth; ++e) sum.of[e] += room.sums[g * width + me].of[e];
      }
      store_pack(row + column, sum);
    }
    __syncthreads();  // before `sums` and `order` are written again
  }
}

// A row for each warp, those of a block far from each other, as frequent ids are neighbours in a
// vocabulary; then the block's long lists, one after another.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kBlock)
    sum_lists(const std::int32_t* ids, std::int64_t n, const T* dy, std::int64_t columns,
              std::int64_t rows, float* table) {
  __shared__ Room<kWidth> room;
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t mine = blockIdx.x + static_cast<std::int64_t>(warp) * gridDim.x;
  float* row = table + mine * columns;
  const unsigned uses = mine < rows ? *reinterpret_cast<const unsigned*>(row) : 0;  // 0: it is 0
  if (lane == 0) room.uses[warp] = uses;
  const bool is_short = uses > 0 && uses <= kShort && uses < columns;
  unsigned* list = room.list + warp * kShort;
  unsigned* order = room.order + warp * kShort;
  if (is_short && lane < static_cast<int>(uses)) {
    list[lane] = reinterpret_cast<const unsigned*>(row)[1 + lane];
  }
  __syncwarp();
  if (is_short) sort(list, static_cast<int>(uses), lane, kWarp, order);
  __syncwarp();
  if (is_short) {
    for (std::int64_t c = lane * kWidth; c < columns; c += kWarp * kWidth) {
      Pack<kWidth> sum = {};
      add_rows<kWidth>(dy + c, columns, order, 0, static_cast<int>(uses), sum);
      store_pack(row + c, sum);
    }
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    const unsigned many = room.uses[w];
    if (many == 0 || (many <= kShort && many < columns)) continue;
    const std::int64_t v = blockIdx.x + static_cast<std::int64_t>(w) * gridDim.x;
    sum_long<kWidth>(ids, n, v, dy, columns, static_cast<int>(many), table + v * columns, room);
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
  const std::int64_t rows = entries / columns;
  for_stored(dy.dtype, [&]<typename T>(Stored<T>) {
    const auto kernel =
        wide && columns % kWideOf<T> == 0 ? sum_lists<kWideOf<T>, T> : sum_lists<1, T>;
    kernel<<<blocks_for(rows, kWarps), kBlock, 0, on.stream>>>(
        ids.as<std::int32_t>(), n, dy.as<T>(), columns, rows, dtable.as<float>());
  });
  check_launch("embedding_backward");
}

}  // namespace peal::cuda
