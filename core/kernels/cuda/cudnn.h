// Convolutions as cuDNN computes them, without a type of cuDNN's.
#pragma once

#include <cstddef>
#include <initializer_list>

#include "core/kernels/kernels.h"

namespace peal::cuda {

enum class ConvPass : std::uint8_t {
  forward,           // tensors: x, w, y = conv(x, w)
  forward_fused,     // x, w, [b,] y = act(conv(x, w) + b), as the spec says
  backward_data,     // dy, w, dx
  backward_weights,  // x, dy, dw
};

// One pass of one convolution, ready to run: an engine that cuDNN's heuristics name for the shapes,
// never one that was measured, so that the choice and the bits are the same in every run on the
// same chip and library. Engines that are not deterministic or compute with less than f32 (tensor
// cores, FFT, Winograd) are not taken.
class ConvPlan {
 public:
  virtual ~ConvPlan() = default;
  virtual std::size_t scratch_bytes() const = 0;
  // Tensors as ConvPass lists them, aligned to kConvAlignment bytes. Any thread may call it.
  virtual void run(Stream& s, std::initializer_list<const Tensor*> tensors,
                   const Tensor& scratch) = 0;
};

inline constexpr std::size_t kConvAlignment = 16;

// Shared by all that ask for the same pass of the same spec, and kept as long as the program: a
// CUDA graph may launch its kernels. nullptr: cuDNN has no engine of that kind for it, which
// `why` then tells. Throws Error(input) where cuDNN is not installed.
ConvPlan* find_conv_plan(const Device& device, const Conv2dSpec& spec, ConvPass pass,
                         std::string& why);

}  // namespace peal::cuda
