// The tiles of attention.cu. 256 threads are a square of 16 x 16: thread (y, x) has the rows y,
// y + 16, ... and the columns x, x + 16, ... of whatever the block computes, so that neighbours
// read neighbouring banks of shared memory or all the same word.
#pragma once

#include <cstdint>

#include "core/kernels/cuda/sums.cuh"

namespace peal::cuda {

struct AttentionOf {
  std::int64_t batch, heads, time, width, depth;  // B, H, T, C, D = C / H
  float scale;                                    // 1 / sqrt(D)
};

constexpr int kSide = 16;

// kTile queries or keys of a head, whose D columns are filled up with zeros to kDepth.
template <int kTile_, int kDepth_>
struct AttentionSize {
  static constexpr int kTile = kTile_, kDepth = kDepth_;
  static constexpr int kStride = kDepth + 1, kTileFloats = kTile * kStride;  // in shared memory
  static constexpr int kScoreStride = kTile + 1, kScoreFloats = kTile * kScoreStride;
  static constexpr int kMine = kTile / kSide, kColumns = kDepth / kSide;  // of a thread
};

// One tile of one head; long rows first, which take longest.
template <class Size>
struct AttentionBlock {
  __device__ explicit AttentionBlock(const AttentionOf& o)
      : of(o),
        tiles(static_cast<int>(ceil_div(o.time, Size::kTile))),
        tile(tiles - 1 - static_cast<int>(blockIdx.x % tiles)),
        head(blockIdx.x / tiles),
        y(static_cast<int>(threadIdx.x) / kSide),
        x(static_cast<int>(threadIdx.x) % kSide) {}

  // Where this head begins in qkv (part 0, 1, 2: q, k, v), in y, and in a tensor (B, H, T).
  __device__ std::int64_t input(int part) const {
    return head / of.heads * of.time * 3 * of.width + part * of.width + head % of.heads * of.depth;
  }
  __device__ std::int64_t output() const {
    return head / of.heads * of.time * of.width + head % of.heads * of.depth;
  }
  __device__ std::int64_t rows() const { return head * of.time; }

  __device__ int row(int i) const { return y + kSide * i; }
  __device__ int column(int j) const { return x + kSide * j; }
  __device__ int time(int of_tile, int i) const { return of_tile * Size::kTile + row(i); }
  __device__ bool sees(int query_tile, int i, int key_tile, int j) const {
    return key_tile * Size::kTile + column(j) <= time(query_tile, i);
  }

  // A tile of rows that are `stride` apart, zeros where there is nothing.
  template <typename T>
  __device__ void load(float* to, const T* from, std::int64_t stride, int of_tile) const {
    for (int i = static_cast<int>(threadIdx.x); i < Size::kTile * Size::kDepth; i += kThreads) {
      const int r = i / Size::kDepth, d = i % Size::kDepth;
      const std::int64_t t = static_cast<std::int64_t>(of_tile) * Size::kTile + r;
      to[r * Size::kStride + d] = t < of.time && d < of.depth ? widen(from[t * stride + d]) : 0.0f;
    }
  }

  // s[i][j] += a[row i] . b[row `column j`]
  __device__ void dots(const float* a, const float* b, float (&s)[Size::kMine][Size::kMine]) const {
#pragma unroll 4
    for (int d = 0; d < Size::kDepth; ++d) {
      float left[Size::kMine], right[Size::kMine];
#pragma unroll
      for (int i = 0; i < Size::kMine; ++i) {
        left[i] = a[row(i) * Size::kStride + d];
        right[i] = b[column(i) * Size::kStride + d];
      }
#pragma unroll
      for (int i = 0; i < Size::kMine; ++i) {
#pragma unroll
        for (int j = 0; j < Size::kMine; ++j) s[i][j] = fmaf(left[i], right[j], s[i][j]);
      }
    }
  }

  __device__ void put(float* scores, const float (&s)[Size::kMine][Size::kMine]) const {
#pragma unroll
    for (int i = 0; i < Size::kMine; ++i) {
#pragma unroll
      for (int j = 0; j < Size::kMine; ++j)
        scores[row(i) * Size::kScoreStride + column(j)] = s[i][j];
    }
  }

  // out[i][c] += sum over u of scores[row i][u] * b[u][column c]
  __device__ void add_product(const float* scores, const float* b,
                              float (&out)[Size::kMine][Size::kColumns]) const {
    add(scores, Size::kScoreStride, 1, b, out);
  }
  // out[i][c] += sum over r of scores[r][row i] * b[r][column c]
  __device__ void add_transposed(const float* scores, const float* b,
                                 float (&out)[Size::kMine][Size::kColumns]) const {
    add(scores, 1, Size::kScoreStride, b, out);
  }

  // to[row i][column c] = factor * out[i][c], where the tile has rows and columns
  template <typename T>
  __device__ void store(T* to, std::int64_t stride, int of_tile,
                        const float (&out)[Size::kMine][Size::kColumns], float factor) const {
#pragma unroll
    for (int i = 0; i < Size::kMine; ++i) {
      const std::int64_t t = time(of_tile, i);
#pragma unroll
      for (int c = 0; c < Size::kColumns; ++c) {
        if (t < of.time && column(c) < of.depth)
          to[t * stride + column(c)] = rounded<T>(factor * out[i][c]);
      }
    }
  }

  const AttentionOf of;
  const int tiles, tile;
  const std::int64_t head;  // of B * H
  const int y, x;

 private:
  __device__ void add(const float* scores, int row_step, int step, const float* b,
                      float (&out)[Size::kMine][Size::kColumns]) const {
#pragma unroll 4
    for (int u = 0; u < Size::kTile; ++u) {
      float left[Size::kMine], right[Size::kColumns];
#pragma unroll
      for (int i = 0; i < Size::kMine; ++i) left[i] = scores[row(i) * row_step + u * step];
#pragma unroll
      for (int c = 0; c < Size::kColumns; ++c) right[c] = b[u * Size::kStride + column(c)];
#pragma unroll
      for (int i = 0; i < Size::kMine; ++i) {
#pragma unroll
        for (int c = 0; c < Size::kColumns; ++c) out[i][c] = fmaf(left[i], right[c], out[i][c]);
      }
    }
  }
};

}  // namespace peal::cuda
