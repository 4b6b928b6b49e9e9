// What the loops of conv_relu_pool_pass.h, which are compiled once for each instruction set, share
// with the kernel that calls them.
//
// Vectors run over pooled positions. Position p looks at a patch of (K+1)*(K+1) inputs, and
// patches (vectors, C, (K+1)*(K+1), 16) holds input j of the patches of 16 positions side by side.
// All four convolution outputs of p, and the gradients of all K*K weights, are then sums over j in
// the same lane, so that nothing of the convolution's size is ever stored. Forward keeps three bits
// a position: which column and which row of the 2x2 window won, and whether relu let it through.
//
// A lane's sums are made in one order with fused multiply-adds, however many lanes a register
// holds, so that every instruction set gives the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>

#include "core/kernels/kernels.h"

namespace peal::cpu::conv_relu_pool {

inline constexpr std::int64_t kLanes = 16;

inline std::int64_t whole_vectors(std::int64_t n) {
  return (n + kLanes - 1) / kLanes * kLanes;
}

// Bit l is position 16*v + l of vector v.
struct Winners {
  std::uint16_t column, row, alive;
};

struct Geometry {
  Geometry(const Conv2dSpec& conv, const Pool2dSpec& pool)
      : records(conv.x[0]),
        channels(conv.x[1]),
        height(conv.x[2]),
        width(conv.x[3]),
        top(conv.padding[0]),
        left(conv.padding[1]),
        filters(conv.w[0]),
        kernel(conv.w[2]),
        rows(pool.y()[2]),
        columns(pool.y()[3]),
        positions(rows * columns),
        vectors(whole_vectors(positions) / kLanes),
        plane(whole_vectors((rows - 1) * columns + whole_vectors(columns))),
        line(2 * whole_vectors(columns + kernel / 2) + 2 * kLanes) {}

  std::int64_t patch() const { return (kernel + 1) * (kernel + 1); }
  std::int64_t taps() const { return kernel * kernel; }
  std::int64_t patch_floats() const { return vectors * channels * patch() * kLanes; }
  std::int64_t plane_floats() const { return channels * patch() * plane; }
  std::int64_t sum_floats() const { return filters * (channels * taps() + 1) * kLanes; }

  std::int64_t records, channels, height, width, top, left, filters, kernel;
  std::int64_t rows, columns;  // of y
  std::int64_t positions;      // rows * columns
  std::int64_t vectors;        // that hold the positions
  std::int64_t plane;          // floats between planes, with room to write whole vectors
  std::int64_t line;           // floats of a padded input row
};

struct Scratch {
  Scratch(const Geometry& g, float* base)
      : patches(base),
        planes(patches + g.patch_floats()),
        line(planes + g.plane_floats()),
        even(line + g.line),
        odd(even + g.line),
        sums(odd + g.line) {}
  static std::size_t bytes(const Geometry& g, bool training) {
    const std::int64_t floats = g.patch_floats() + g.plane_floats() + 3 * g.line;
    return static_cast<std::size_t>(floats + (training ? g.sum_floats() : 0)) * sizeof(float);
  }
  float* patches;
  float* planes;             // (C, (K+1)*(K+1), plane): the same before it is cut into vectors
  float *line, *even, *odd;  // an input row, padded; its even and its odd columns
  float* sums;               // one vector for each weight and bias
};

// The loops for K*K windows in one instruction set, each over one record.
struct Loops {
  void (*fill_patches)(const Geometry& g, const Scratch& s, const float* x);
  // saved is null for inference.
  void (*forward)(const Geometry& g, const Scratch& s, const float* w, const float* b, float* y,
                  Winners* saved);
  // Adds to s.sums.
  void (*backward)(const Geometry& g, const Scratch& s, const float* dy, const Winners* saved);
};

// Of windows of 3*3 or 5*5.
using LoopsOf = Loops (*)(std::int64_t kernel);
Loops avx512_loops(std::int64_t kernel);
Loops avx2_loops(std::int64_t kernel);
bool has_avx512();

// nullptr where the kernel does not apply.
std::unique_ptr<ConvReluPool> make(const Conv2dSpec& conv, const Pool2dSpec& pool, LoopsOf loops);

}  // namespace peal::cpu::conv_relu_pool
