// Kernels over the rows of a matrix, of which each is read once, looked at several times and
// written. A Part is how threads share a row: a warp keeps a short one in registers (WarpPart), a
// block a long one in shared memory (BlockPart), or reads it again where it does not fit there.
// Which Part it is depends on the number of columns alone; where a long row is kept changes no
// bits.
//
//   template <class Part>
//   __global__ void __launch_bounds__(Part::kBlock) some_kernel(const float* x, ..., RowsOf of) {
//     const Part part(of);
//     if (part.outside()) return;
//     const auto row = part.read(x + part.offset());
//     const double sum = part.sum([](float v) { return double(v); }, row);
//     ...
//   }
#pragma once

#include <algorithm>
#include <cmath>

#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {

struct RowsOf {
  std::int64_t rows, columns;
  bool wide;  // all arrays are aligned
  bool kept;  // BlockPart: rows that are read find room in shared memory
};

// What both Parts do with rows, whose packs are given by at(k, column): k counts a thread's packs.
template <class Part, int kWidth>
class RowMath {
 public:
  // Over all elements: f of the elements of `rows` at one place.
  template <class F, class... Rows>
  __device__ double sum(F f, const Rows&... rows) const {
    double total = 0;
    self().each([&](int k, std::int64_t c) { add(total, f, rows.at(k, c)...); });
    return self().reduce(total, Plus());
  }
  template <class Row>
  __device__ float max(const Row& row) const {
    float largest = -INFINITY;
    self().each([&](int k, std::int64_t c) {
      const Pack<kWidth> pack = row.at(k, c);
#pragma unroll
      for (int e = 0; e < kWidth; ++e) largest = fmaxf(largest, pack.of[e]);
    });
    return self().reduce(largest, Larger());
  }
  // to = f of the elements of `rows`
  template <typename T, class F, class... Rows>
  __device__ void write(T* to, F f, const Rows&... rows) const {
    self().each([&](int k, std::int64_t c) {
      write_pack<kWidth>(to + c, mapped(f, rows.at(k, c)...), self().of.wide);
    });
  }

 private:
  __device__ const Part& self() const {
    return static_cast<const Part&>(*this);
  }

  template <class F, class... Packs>
  __device__ static void add(double& total, F f, const Packs&... packs) {
#pragma unroll
    for (int e = 0; e < kWidth; ++e) total += f(packs.of[e]...);
  }
  template <class F, class... Packs>
  __device__ static Pack<kWidth> mapped(F f, const Packs&... packs) {
    Pack<kWidth> out;
#pragma unroll
    for (int e = 0; e < kWidth; ++e) out.of[e] = f(packs.of[e]...);
    return out;
  }
};

// A row that stays where it is, as the factors of all rows do.
template <int kWidth, typename T = float>
struct RowInMemory {
  const T* from;
  bool wide;
  __device__ Pack<kWidth> at(int, std::int64_t column) const {
    return read_pack<kWidth>(from + column, wide);
  }
};

template <int kWidth_, int kPacks>
class WarpPart : public RowMath<WarpPart<kWidth_, kPacks>, kWidth_> {
 public:
  static constexpr int kWidth = kWidth_, kBlock = kThreads, kRowsOfBlock = kThreads / kWarp;
  static constexpr bool kShares = false;
  struct Row {
    Pack<kWidth> packs[kPacks];
    __device__ Pack<kWidth> at(int k, std::int64_t) const { return packs[k]; }
  };

  __device__ explicit WarpPart(const RowsOf& o)
      : of(o),
        row(static_cast<std::int64_t>(blockIdx.x) * kRowsOfBlock + threadIdx.x / kWarp),
        lane(static_cast<int>(threadIdx.x) % kWarp) {}
  __device__ bool outside() const { return row >= of.rows; }
  __device__ std::int64_t offset() const { return row * of.columns; }
  __device__ bool first() const { return lane == 0; }
  // Whether this thread reads and writes that element.
  __device__ bool has(std::int64_t column) const { return column / kWidth % kWarp == lane; }

  template <class F>
  __device__ void each(F f) const {
#pragma unroll
    for (int k = 0; k < kPacks; ++k) {
      const int column = (k * kWarp + lane) * kWidth;
      if (column < of.columns) f(k, column);
    }
  }
  // `which`: rows that a thread reads are counted.
  template <typename T>
  __device__ Row read(const T* from, int /*which*/ = 0) const {
    Row to;
    each([&](int k, std::int64_t c) { to.packs[k] = read_pack<kWidth>(from + c, of.wide); });
    return to;
  }
  __device__ RowInMemory<kWidth> factors(const float* from) const {
    return {from, of.wide};
  }
  template <typename T, class Op>
  __device__ T reduce(T value, Op op) const {
    return warp_reduce(value, op);
  }

  const RowsOf of;
  const std::int64_t row;
  const int lane;
};

template <int kWidth_, int kBlock_>
class BlockPart : public RowMath<BlockPart<kWidth_, kBlock_>, kWidth_> {
 public:
  static constexpr int kWidth = kWidth_, kBlock = kBlock_, kRowsOfBlock = 1;
  static constexpr bool kShares = true;
  __device__ explicit BlockPart(const RowsOf& o) : of(o), row(blockIdx.x) {}
  __device__ bool outside() const { return false; }
  __device__ std::int64_t offset() const { return row * of.columns; }
  __device__ bool first() const { return threadIdx.x == 0; }
  __device__ bool has(std::int64_t column) const {
    return column / kWidth % kBlock == static_cast<int>(threadIdx.x);
  }

  template <class F>
  __device__ void each(F f) const {
    int k = 0;
    for (std::int64_t c = static_cast<int>(threadIdx.x) * kWidth; c < of.columns;
         c += kBlock * kWidth) {
      f(k++, c);
    }
  }
  // A thread copies what it will read itself, so that nothing waits.
  template <typename T>
  __device__ RowInMemory<kWidth, T> read(const T* from, int which = 0) const {
    if (!of.kept) return {from, of.wide};
    extern __shared__ float4 held[];
    T* to = reinterpret_cast<T*>(held) + which * of.columns;
    constexpr int kAtOnce = kWidth == 1 ? 8 : 4;
    constexpr std::int64_t kStep = kBlock * kWidth;
    std::int64_t c = static_cast<int>(threadIdx.x) * kWidth;
    for (; c + (kAtOnce - 1) * kStep < of.columns; c += kAtOnce * kStep) {
      AsRead<kWidth, T> packs[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        packs[k] = read_as_is<kWidth>(from + c + k * kStep, of.wide);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) hold(to + c + k * kStep, packs[k]);
    }
    for (; c < of.columns; c += kStep) {
      hold(to + c, read_as_is<kWidth>(from + c, of.wide));
    }
    return {to, true};
  }
  __device__ RowInMemory<kWidth> factors(const float* from) const {
    return {from, of.wide};
  }
  template <typename T, class Op>
  __device__ T reduce(T value, Op op) const {
    return block_reduce<kBlock>(value, op);
  }

  const RowsOf of;
  const std::int64_t row;
};

// launch(Part) for the Part of rows that long, Part being a tag.
template <class Part>
struct PartTag {
  using Type = Part;
};

// A thread's packs are 16 bytes of T.
template <typename T = float, class Launch>
void for_part(std::int64_t columns, Launch launch) {
  constexpr std::int64_t kShort = 1024, kLong = 8192;
  constexpr int kPack = kWideOf<T>;
  if (columns % kPack == 0 && columns <= kShort) {
    if (columns <= 256) return launch(PartTag<WarpPart<kPack, 8 / kPack>>());
    return launch(PartTag<WarpPart<kPack, 32 / kPack>>());
  }
  if (columns % kPack == 0) {
    if (columns <= kLong) return launch(PartTag<BlockPart<kPack, 256>>());
    return launch(PartTag<BlockPart<kPack, 1024>>());
  }
  if (columns <= 32) return launch(PartTag<WarpPart<1, 1>>());
  if (columns <= 256) return launch(PartTag<WarpPart<1, 8>>());
  if (columns <= kLong) return launch(PartTag<BlockPart<1, 256>>());
  return launch(PartTag<BlockPart<1, 1024>>());
}

// `room` bytes of shared memory for a block's rows; 0 where a block may not have as much.
std::size_t room_for_rows(const void* kernel, const Stream& s, std::size_t room);

// kernel(arguments..., RowsOf) over all rows of T, of which it reads `reads` at a time.
template <class Part, typename T = float, class... Parameters, class... Arguments>
void launch_rows(Stream& s, const char* name, void (*kernel)(Parameters...), std::int64_t rows,
                 std::int64_t columns, int reads, bool wide, const Arguments&... arguments) {
  if (rows == 0 || columns == 0) return;
  const OnStream on(s);
  std::size_t room = 0;
  if (Part::kShares) {
    room = room_for_rows(reinterpret_cast<const void*>(kernel), s,
                         static_cast<std::size_t>(columns * reads) * sizeof(T));
  }
  const RowsOf of{rows, columns, wide, room > 0};
  kernel<<<blocks_for(rows, Part::kRowsOfBlock), Part::kBlock, room, on.stream>>>(arguments..., of);
  check_launch(name);
}

// e^d for d <= 0 within 5e-8 of itself: 2^k * (1 + q) with |r| <= ln 2 / 2 and q = e^r - 1 by
// Taylor's polynomial in f32, whose error is small beside 1. Far below it is 0 in f32 anyway.
__device__ inline double exp_below(float d) {
  d = d < -110.0f ? -110.0f : d;  // a NaN passes
  const float k = rintf(d * 1.4426950f);
  float r = fmaf(k, -0.693145752f, d);  // ln 2 in two parts, the first of few bits
  r = fmaf(k, -1.42860677e-6f, r);
  float p = 1.0f / 5040;
  p = fmaf(p, r, 1.0f / 720);
  p = fmaf(p, r, 1.0f / 120);
  p = fmaf(p, r, 1.0f / 24);
  p = fmaf(p, r, 1.0f / 6);
  p = fmaf(p, r, 0.5f);
  const float q = fmaf(r * r, p, r);
  const double two_k = __hiloint2double((1023 + static_cast<int>(k)) << 20, 0);
  return two_k + two_k * static_cast<double>(q);
}

}  // namespace peal::cuda
