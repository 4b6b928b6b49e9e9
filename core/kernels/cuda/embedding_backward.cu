// Each row of dtable gathers its own gradients. For that every row needs the list of its ids, which
// scratch memory holds: lists lie there in any order, and so do the positions in one, which are
// sorted when they are used. A short list is summed by a warp, in the order of ids. A long one (a
// text's commonest token may be a tenth of it) is summed by the whole block: of halves, groups of
// threads take equal parts of it in order, and their sums are added in order; how many groups
// follows from the columns. f32 keeps to the order of ids. For a list that is too long to be
// sorted, the block reads all ids instead, and groups share what is found in each kBlock of them:
// cheap for the few frequent ids of a vocabulary.
//
// Cost beside dy and the rows that are written: dtable once, to make it 0; where the sums are added
// to what is there, only those rows, once more.
#include <type_traits>

#include "core/kernels/cuda/cuda_kernels.h"
#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {
namespace {

constexpr int kBlock = 1024, kWarps = kBlock / kWarp;
constexpr int kShort = kWarp;     // list that a warp sums
constexpr int kLongest = kBlock;  // list that is sorted

// In scratch memory, of which the first 2 * rows + 1 numbers begin as 0.
struct Lists {
  Lists(const Tensor& scratch, std::int64_t rows)
      : uses(scratch.as<unsigned>()),
        filled(uses + rows),
        taken(filled + rows),
        starts(taken + 1),
        positions(starts + rows) {}
  unsigned* uses;       // (rows): ids of each
  unsigned* filled;     // (rows): of them those that have been written
  unsigned* taken;      // (1) of the positions
  unsigned* starts;     // (rows): of each list in positions
  unsigned* positions;  // (n)
};

__global__ void __launch_bounds__(kThreads)
    count_ids(const std::int32_t* ids, std::int64_t n, Lists lists) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < n) atomicAdd(lists.uses + ids[i], 1u);
}

__global__ void __launch_bounds__(kBlock) place_lists(std::int64_t rows, Lists lists) {
  __shared__ unsigned of_block, start_of_block;
  const std::int64_t v = static_cast<std::int64_t>(blockIdx.x) * kBlock + threadIdx.x;
  const unsigned uses = v < rows ? lists.uses[v] : 0;
  if (threadIdx.x == 0) of_block = 0;
  __syncthreads();
  const unsigned start = uses > 0 ? atomicAdd(&of_block, uses) : 0;
  __syncthreads();
  if (threadIdx.x == 0) start_of_block = atomicAdd(lists.taken, of_block);
  __syncthreads();
  if (uses > 0) lists.starts[v] = start_of_block + start;
}

__global__ void __launch_bounds__(kThreads)
    fill_lists(const std::int32_t* ids, std::int64_t n, Lists lists) {
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= n) return;
  const std::int32_t v = ids[i];
  lists.positions[lists.starts[v] + atomicAdd(lists.filled + v, 1u)] = static_cast<unsigned>(i);
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

// row = sum, or what is there and it.
template <int kWidth>
__device__ void write_sum(float* row, Pack<kWidth> sum, bool adds) {
  if (adds) {
    const Pack<kWidth> there = load_pack<kWidth>(row);
#pragma unroll
    for (int e = 0; e < kWidth; ++e) sum.of[e] = there.of[e] + sum.of[e];
  }
  store_pack(row, sum);
}

// What a block works with.
template <int kWidth>
struct Room {
  unsigned list[kBlock], order[kBlock];  // of a warp kShort each, or of the block
  unsigned uses[kWarps];
  Pack<kWidth> sums[kBlock];
};

// Row v, of `uses` ids, by the whole block: thread (group, pack of columns).
template <int kWidth, typename T>
__device__ void sum_long(const std::int32_t* ids, std::int64_t n, std::int64_t v, const T* dy,
                         std::int64_t columns, const Lists& lists, int uses, bool adds, float* row,
                         Room<kWidth>& room) {
  const int me = static_cast<int>(threadIdx.x);
  const bool listed = uses <= kLongest;
  if (listed) {
    const unsigned* list = lists.positions + lists.starts[v];
    for (int i = me; i < uses; i += kBlock) room.list[i] = list[i];
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
      write_sum(row + column, sum, adds);
    }
    __syncthreads();  // before `sums` and `order` are written again
  }
}

// A row for each warp, those of a block far from each other, as frequent ids are neighbours in a
// vocabulary; then the block's long lists, one after another.
template <int kWidth, typename T>
__global__ void __launch_bounds__(kBlock)
    sum_lists(const std::int32_t* ids, std::int64_t n, const T* dy, std::int64_t columns,
              std::int64_t rows, Lists lists, bool adds, float* table) {
  __shared__ Room<kWidth> room;
  const int warp = static_cast<int>(threadIdx.x) / kWarp,
            lane = static_cast<int>(threadIdx.x) % kWarp;
  const std::int64_t mine = blockIdx.x + static_cast<std::int64_t>(warp) * gridDim.x;
  float* row = table + mine * columns;
  const unsigned uses = mine < rows ? lists.uses[mine] : 0;
  if (lane == 0) room.uses[warp] = uses;
  const bool is_short = uses > 0 && uses <= kShort;
  unsigned* list = room.list + warp * kShort;
  unsigned* order = room.order + warp * kShort;
  if (is_short && lane < static_cast<int>(uses)) {
    list[lane] = lists.positions[lists.starts[mine] + lane];
  }
  __syncwarp();
  if (is_short) sort(list, static_cast<int>(uses), lane, kWarp, order);
  __syncwarp();
  if (is_short) {
    for (std::int64_t c = lane * kWidth; c < columns; c += kWarp * kWidth) {
      Pack<kWidth> sum = {};
      add_rows<kWidth>(dy + c, columns, order, 0, static_cast<int>(uses), sum);
      write_sum(row + c, sum, adds);
    }
  }
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) {
    const unsigned many = room.uses[w];
    if (many <= kShort) continue;
    const std::int64_t v = blockIdx.x + static_cast<std::int64_t>(w) * gridDim.x;
    sum_long<kWidth>(ids, n, v, dy, columns, lists, static_cast<int>(many), adds,
                     table + v * columns, room);
  }
}

}  // namespace

void CudaKernels::embedding_backward(Stream& s, const Tensor& ids, const Tensor& dy, bool adds,
                                     Tensor dtable, Tensor scratch) {
  const std::int64_t n = ids.numel(), columns = dtable.shape[-1], entries = dtable.numel();
  if (entries == 0) return;
  const OnStream on(s);
  if (!adds) cudaMemsetAsync(dtable.data, 0, dtable.bytes(), on.stream);
  check_launch("embedding_backward, zeros");
  if (n == 0) return;
  const std::int64_t rows = entries / columns;
  const auto* const of_rows = ids.as<std::int32_t>();
  const Lists lists(scratch, rows);
  cudaMemsetAsync(lists.uses, 0, static_cast<std::size_t>(2 * rows + 1) * sizeof(unsigned),
                  on.stream);
  count_ids<<<blocks_for(n, kThreads), kThreads, 0, on.stream>>>(of_rows, n, lists);
  place_lists<<<blocks_for(rows, kBlock), kBlock, 0, on.stream>>>(rows, lists);
  fill_lists<<<blocks_for(n, kThreads), kThreads, 0, on.stream>>>(of_rows, n, lists);
  check_launch("embedding_backward, lists");
  const bool wide = aligned(dy.data) && aligned(dtable.data);
  for_stored(dy.dtype, [&]<typename T>(Stored<T>) {
    const auto kernel =
        wide && columns % kWideOf<T> == 0 ? sum_lists<kWideOf<T>, T> : sum_lists<1, T>;
    kernel<<<blocks_for(rows, kWarps), kBlock, 0, on.stream>>>(
        of_rows, n, dy.as<T>(), columns, rows, lists, adds, dtable.as<float>());
  });
  check_launch("embedding_backward");
}

}  // namespace peal::cuda
