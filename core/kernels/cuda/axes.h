// How reduce_sum and its like find their elements: plain C++, which tests on the CPU try.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "core/kernels/cuda/walk.h"
#include "core/kernels/nest.h"

namespace peal::cuda {

// n / d, by a multiplication where both are below 2^31.
class Divider {
 public:
  Divider() = default;
  explicit Divider(std::int64_t d) : value_(d), small_(d > 0 && d >> 31 == 0) {
    if (small_) by_ = Division::by(static_cast<std::uint32_t>(d));
  }
  PEAL_ANYWHERE std::int64_t value() const { return value_; }
  PEAL_ANYWHERE std::int64_t divide(std::int64_t n) const {
    return small_ && n >> 31 == 0 ? by_.quotient(static_cast<std::uint32_t>(n)) : n / value_;
  }

 private:
  std::int64_t value_ = 1;
  Division by_ = Division::by(1);
  bool small_ = true;
};

// The nest of loops over some axes of one tensor, its operand 0. Unlike a Walk it has any size.
class Axes {
 public:
  explicit Axes(const Nest& nest) : rank_(static_cast<int>(nest.rank())) {
    for (std::size_t a = 0; a < nest.rank(); ++a) {
      size_[a] = Divider(nest[a].size);
      step_[a] = nest[a].steps[0];
    }
  }
  std::int64_t count() const {
    std::int64_t n = 1;
    for (int a = 0; a < rank_; ++a) n *= size_[a].value();
    return n;
  }
  // Where the i-th position lies, in row-major order.
  PEAL_ANYWHERE std::int64_t offset(std::int64_t i) const {
    std::int64_t at = 0;
    for (int a = rank_ - 1; a > 0; --a) {
      const std::int64_t outer = size_[a].divide(i);
      at += (i - outer * size_[a].value()) * step_[a];
      i = outer;
    }
    return rank_ == 0 ? at : at + i * step_[0];
  }

 private:
  Divider size_[Shape::kMaxRank];
  std::int64_t step_[Shape::kMaxRank] = {};
  int rank_;
};

// x, not empty, summed over the axes where y has 1 and x has not. The innermost axis of more than
// one element lies in x without gaps and is `inner` long: it is summed over (rows), or its elements
// are outputs side by side. Outputs are numbered as they lie in y.
struct Reduction {
  Axes kept, summed;  // without `inner`
  std::int64_t inner;
  bool rows;

  static Reduction of(const Shape& x, const Shape& y) {
    const auto strides = repeat_strides(x, x.rank());
    Nest kept, summed;
    bool rows = false;
    for (int a = 0; a < x.rank(); ++a) {
      if (x[a] == 1) continue;
      rows = y[a] == 1;
      (rows ? summed : kept).add(x[a], {strides[static_cast<std::size_t>(a)], 0, 0});
    }
    const std::int64_t inner = (rows ? summed : kept).pop().size;
    return {Axes(kept), Axes(summed), inner, rows};
  }
};

// A block of rows x columns threads that sums tables of `height` rows: thread (r, c) has the rows
// r, r + rows, ... of column c. Both are powers of two. Neighbours are read at once, so that narrow
// blocks are for tables that give few wide ones: their columns, 8 floats or 16 halves, are the 32
// bytes that memory delivers.
struct Tile {
  std::int64_t rows = 1, columns = 1;

  static Tile of(std::int64_t height, std::int64_t width, std::int64_t tables,
                 std::int64_t narrow = 8) {
    constexpr std::int64_t kMost = 1024, kEnough = 256, kRowsEach = 8, kFewBlocks = 96;
    Tile t;
    t.columns = up(std::min<std::int64_t>(width, 32));
    const bool few = (width + 31) / 32 * tables < kFewBlocks;
    if (few && height >= 512) t.columns = std::min(t.columns, narrow);
    t.rows = std::min(up((height + kRowsEach - 1) / kRowsEach), kMost / t.columns);
    while (t.rows * t.columns < kEnough && t.columns < width) t.columns *= 2;
    return t;
  }
  std::int64_t threads() const { return rows * columns; }

 private:
  static std::int64_t up(std::int64_t n) {
    return static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(n)));
  }
};

}  // namespace peal::cuda
