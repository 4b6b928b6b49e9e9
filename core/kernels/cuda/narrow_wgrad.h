// The gradient of a narrow convolution's weight, as a network's first layer has it: few input
// channels and a small kernel, so that reading dy is most of the work.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "core/kernels/kernels.h"

namespace peal::cuda {

// A tap is one element (c, kh, kw) of an output channel's weight. A chunk is a band of rows of one
// record's dy: sums over it are f32, sums over chunks f64. Chunks follow from the spec alone.
struct NarrowWgrad {
  static constexpr int kMostTaps = 27;

  std::int64_t records;
  int channels, height, width;         // of x
  int outputs, out_height, out_width;  // of dy
  int stride[2], padding[2];           // the spec's
  int taps;                            // of one output channel
  bool bias;                           // db is wanted
  int band_rows, bands;                // of dy in a chunk, and chunks in a record
  int x_rows, x_columns;               // of x that a chunk needs of each channel, zeros included
  int offset[kMostTaps];               // of a tap in those, from the one at (0, 0, 0)

  // Nothing where the kernel is not narrow, or a block's memory too small for a row of it.
  static std::optional<NarrowWgrad> of(const Conv2dSpec& spec);

  std::size_t scratch_bytes() const;
  // As Conv2d::backward_weights. Tensors need no alignment beyond a float's.
  void run(Stream& s, const Tensor& x, const Tensor& dy, const Tensor& dw, const Tensor& db,
           const Tensor& scratch) const;
};

}  // namespace peal::cuda
