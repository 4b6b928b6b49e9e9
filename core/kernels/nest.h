// A nest of loops over up to three operands: axes of size 1 vanish and axes that lie one after the
// other in every operand become one, so that the innermost loop is as long as it can be.
#pragma once

#include <array>
#include <cstdint>

#include "core/device/tensor.h"

namespace peal {

using Steps = std::array<std::int64_t, 3>;  // elements between neighbours, for each operand

class Nest {
 public:
  struct Axis {
    std::int64_t size = 1;
    Steps steps{};
  };

  // Axes are added from the outermost to the innermost.
  void add(std::int64_t size, const Steps& steps) {
    if (size == 1) return;
    if (rank_ > 0 && continues(axes_[last()], size, steps)) {
      axes_[last()] = {axes_[last()].size * size, steps};
    } else {
      axes_[rank_++] = {size, steps};
    }
  }

  // Takes the innermost axis out; one of size 1 when none is left.
  Axis pop() { return rank_ == 0 ? Axis{} : axes_[--rank_]; }
  // Takes out the axis at `index`, counted from the outermost.
  Axis take(std::size_t index) {
    const Axis axis = axes_[index];
    --rank_;
    for (std::size_t i = index; i < rank_; ++i) axes_[i] = axes_[i + 1];
    return axis;
  }
  std::size_t rank() const { return rank_; }
  const Axis& operator[](std::size_t index) const { return axes_[index]; }

  // f(offsets) for every position, in row-major order.
  template <class F>
  void for_each(F f) const {
    for (std::size_t a = 0; a < rank_; ++a) {
      if (axes_[a].size == 0) return;
    }
    std::array<std::int64_t, Shape::kMaxRank> index{};
    Steps at{};
    do {
      f(at);
    } while (advance(index, at));
  }

 private:
  std::size_t last() const { return rank_ - 1; }

  static bool continues(const Axis& outer, std::int64_t size, const Steps& steps) {
    for (std::size_t k = 0; k < steps.size(); ++k) {
      if (outer.steps[k] != size * steps[k]) return false;
    }
    return true;
  }

  bool advance(std::array<std::int64_t, Shape::kMaxRank>& index, Steps& at) const {
    for (std::size_t a = rank_; a-- > 0;) {
      const Axis& axis = axes_[a];
      const bool wraps = ++index[a] == axis.size;
      const std::int64_t moved = wraps ? 1 - axis.size : 1;
      for (std::size_t k = 0; k < at.size(); ++k) at[k] += moved * axis.steps[k];
      if (!wraps) return true;
      index[a] = 0;
    }
    return false;
  }

  std::array<Axis, Shape::kMaxRank> axes_;
  std::size_t rank_ = 0;
};

// Row-major strides, 0 along dimensions of 1 so that they repeat (NumPy's broadcasting); shapes of
// a lower rank are lined up at the end.
inline std::array<std::int64_t, Shape::kMaxRank> repeat_strides(const Shape& shape, int rank) {
  std::array<std::int64_t, Shape::kMaxRank> strides{};
  std::int64_t stride = 1;
  for (int i = shape.rank() - 1; i >= 0; --i) {
    const auto axis = static_cast<std::size_t>(i + rank - shape.rank());
    strides[axis] = shape[i] == 1 ? 0 : stride;
    stride *= shape[i];
  }
  return strides;
}

}  // namespace peal
