// Where position i of a nest of loops (nest.h) lies in each operand: what a thread of a kernel
// works out for itself. Host code makes a Walk and copies it into a kernel's arguments.
#pragma once

#include <cstdint>

#include "core/base/clones.h"
#include "core/kernels/nest.h"

namespace peal::cuda {

// Division of n < 2^31 by what the shapes fix, as a multiplication and a shift (Granlund &
// Montgomery 1994, figure 4.1).
struct Division {
  std::uint32_t divisor = 1, factor = 1, shift = 0;

  static Division by(std::uint32_t divisor) {  // 1 to 2^31
    std::uint32_t shift = 0;
    while ((std::uint64_t{1} << shift) < divisor) ++shift;
    const std::uint64_t over = (std::uint64_t{1} << shift) - divisor;
    return {divisor, static_cast<std::uint32_t>((over << 32) / divisor + 1), shift};
  }
  PEAL_ANYWHERE std::uint32_t quotient(std::uint32_t n) const {
    return (static_cast<std::uint32_t>((std::uint64_t{n} * factor) >> 32) + n) >> shift;
  }
};

// What a Walk can hold: fewer positions than kMostPositions, steps below kMostStep.
inline constexpr std::int64_t kMostPositions = std::int64_t{1} << 31;
inline constexpr std::int64_t kMostStep = std::int64_t{1} << 32;

// Positions in row-major order, so that neighbours are next to each other along the innermost axis.
struct Walk {
  struct Axis {
    Division size;
    std::uint32_t steps[3];
  };
  Axis axes[Shape::kMaxRank];  // from the innermost
  int rank = 0;
  std::uint32_t positions = 1;

  // A position is `width` elements of the innermost axis, which it divides.
  static Walk over(const Nest& nest, int width) {
    Walk walk;
    for (std::size_t a = nest.rank(); a-- > 0;) {
      const std::int64_t wide = walk.rank == 0 ? width : 1;
      const auto size = static_cast<std::uint32_t>(nest[a].size / wide);
      Axis& axis = walk.axes[walk.rank++];
      axis.size = Division::by(size);
      for (std::size_t k = 0; k < 3; ++k) {
        axis.steps[k] = static_cast<std::uint32_t>(nest[a].steps[k] * wide);
      }
      walk.positions *= size;
    }
    return walk;
  }

  // at[k]: elements from the start of operand k.
  template <int kOperands>
  PEAL_ANYWHERE void find(std::uint32_t position, std::int64_t (&at)[kOperands]) const {
    for (std::int64_t& element : at) element = 0;
    PEAL_UNROLL
    for (int a = 0; a < Shape::kMaxRank; ++a) {
      if (a >= rank) break;
      const std::uint32_t rest = a + 1 == rank ? 0 : axes[a].size.quotient(position);
      const std::uint64_t index = position - rest * axes[a].size.divisor;
      PEAL_UNROLL
      for (int k = 0; k < kOperands; ++k) {
        at[k] += static_cast<std::int64_t>(index * axes[a].steps[k]);
      }
      position = rest;
    }
  }
};

// The axis along which a nest is too large for a Walk; rank() where it is not.
inline std::size_t axis_to_cut(const Nest& nest, int width, std::int64_t most_positions,
                               std::int64_t most_step) {
  std::int64_t positions = 1;
  for (std::size_t a = 0; a < nest.rank(); ++a) {
    for (const std::int64_t step : nest[a].steps) {
      if (step >= most_step) return a;
    }
    positions *= nest[a].size;
  }
  return positions / width < most_positions ? nest.rank() : 0;
}

// f(walk, start) for parts that together are the nest, one where it is small enough; start[k] is
// where a part begins in operand k.
template <typename F>
void for_parts(const Nest& nest, int width, const F& f, const Steps& start = {},
               std::int64_t most_positions = kMostPositions, std::int64_t most_step = kMostStep) {
  for (std::size_t a = 0; a < nest.rank(); ++a) {
    if (nest[a].size == 0) return;
  }
  const std::size_t cut = axis_to_cut(nest, width, most_positions, most_step);
  if (cut == nest.rank()) return f(Walk::over(nest, width), start);
  const Nest::Axis& axis = nest[cut];
  const std::int64_t whole = cut + 1 == nest.rank() ? width : 1;
  const std::int64_t half = axis.size / whole / 2 * whole;
  for (const bool second : {false, true}) {
    Nest part;
    for (std::size_t a = 0; a < nest.rank(); ++a) {
      const std::int64_t size = a != cut ? nest[a].size : second ? axis.size - half : half;
      part.add(size, nest[a].steps);
    }
    Steps at = start;
    for (std::size_t k = 0; second && k < at.size(); ++k) at[k] += half * axis.steps[k];
    for_parts(part, width, f, at, most_positions, most_step);
  }
}

}  // namespace peal::cuda
