// The parts of Winograd's algorithm F(4x4, 3x3) (Lavin & Gray 2016, section 4.2) that compute, in
// AVX2 and FMA: transforms of tiles and of weights, and the products between them. winograd.cpp
// puts them together. Tensors are f32 in blocks of 8 channels, the number of channels is a multiple
// of 16.
#pragma once

#include <algorithm>
#include <cstdint>

namespace peal::cpu::winograd {

constexpr int kTile = 4, kPatch = 6, kTaps = 3;  // outputs and inputs of a tile, a window's weights
constexpr int kPlaces = kPatch * kPatch;
constexpr std::int64_t kBlock = 8;     // channels side by side
constexpr std::int64_t kRows = 6;      // of the inmost tile of a product,
constexpr std::int64_t kColumns = 16;  // and its columns
constexpr std::int64_t kPad = 16;      // floats, so that rows do not share a set of the caches

// A tensor (B, channels, height, width) in blocks of 8 channels.
struct Plane {
  std::int64_t channels, height, width;
  std::int64_t block() const { return height * width * kBlock; }  // floats from one to the next
  std::int64_t record() const { return channels * height * width; }
  std::int64_t row() const { return width * kBlock; }
};

// Which tile: the first of its rows and columns of the output.
struct Place {
  std::int64_t record, top, left;
};

// The tiles of an output, in the order of records, rows, columns.
struct Tiles {
  Tiles(std::int64_t batch, const Plane& out)
      : rows((out.height + kTile - 1) / kTile),
        columns((out.width + kTile - 1) / kTile),
        count(batch * rows * columns) {}
  Place place(std::int64_t tile) const {
    return {tile / (rows * columns), tile / columns % rows * kTile, tile % columns * kTile};
  }
  std::int64_t rows, columns, count;
};

// 36 matrices, one a place of a patch: tiles by channels, or channels by channels.
struct Matrices {
  Matrices(std::int64_t rows, std::int64_t columns)
      : pitch(columns + kPad), step(rows * pitch + kPad) {}
  std::int64_t floats() const { return kPlaces * step; }
  std::int64_t pitch;  // floats between rows
  std::int64_t step;   // floats between matrices
};

// Transformed weights: 36 matrices (rows, columns) in panels of 16 columns.
struct Panels {
  std::int64_t floats() const { return kPlaces * step(); }
  std::int64_t step() const { return rows * columns + kPad; }
  std::int64_t rows, columns;
};

// Tiles first .. first + count.
struct Range {
  std::int64_t first, count;
};

// Patches of x into matrices; `padding`: how far above and left of its tile a patch begins.
void spread_inputs(const Plane& plane, const float* x, const Tiles& tiles, const Range& range,
                   const std::int64_t (&padding)[2], const Matrices& to, float* matrices);

// Tiles of dy into matrices, by the transpose of what collect does.
void spread_gradients(const Plane& plane, const float* dy, const Tiles& tiles, const Range& range,
                      const Matrices& to, float* matrices);

// Matrices of products back to tiles of y, to which bias (nullptr: none) and relu are applied.
void collect(const Plane& plane, float* y, const Tiles& tiles, const Range& range,
             const Matrices& of, const float* matrices, const float* bias, bool relu);

// w (O, C, 3, 3) as matrices (C, O); turned: windows turned by half a turn as (O, C), for the
// gradient of x. `to` is (C, O) or (O, C).
void transform_weights(const float* w, bool turned, const Panels& to, float* panels);

// dw (O, C, 3, 3) of matrices (O, C).
void collect_weights(std::int64_t O, std::int64_t C, const Matrices& of, const float* matrices,
                     float* dw);

// db (O), summed over records, rows and columns: rows in f32, their sums in f64.
void sum_channels(std::int64_t batch, const Plane& plane, const float* dy, float* db);

// An operand of a product: floats from one row and one column to the next. Columns of the right one
// lie side by side, 16 of them; `panel` floats later the next 16 begin.
struct Left {
  const float* data;
  std::int64_t row, column;
};
struct Right {
  const float* data;
  std::int64_t row, panel;
};

// c (rows, columns) = a (rows, depth) * b (depth, columns), or that is added to c, whose rows are
// `pitch` floats apart. Sums run over depth in order, 256 at a time.
void multiply(std::int64_t rows, std::int64_t columns, std::int64_t depth, const Left& a,
              const Right& b, float* c, std::int64_t pitch, bool adds);

}  // namespace peal::cpu::winograd
