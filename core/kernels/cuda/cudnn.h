// What cuDNN computes, without a type of cuDNN's: convolutions, and attention of half types.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <vector>

#include "core/kernels/kernels.h"

namespace peal::cuda {

// One graph of cuDNN's, ready to run: of those engines that its heuristics name for the shapes the
// first, or the one whose number somebody has chosen, never one that this run has measured, so that
// the choice and the bits are the same in every run on the same chip and library. Engines that are
// not deterministic, or sum in less than f32 (FFT, Winograd and, for f32 tensors, tensor cores) are
// not taken; where the spec asks for no determinism, those of the first two kinds are.
//
// Plans are shared by all that ask for the same, and kept as long as the program: a CUDA graph may
// launch their kernels. Where a function gives nullptr, cuDNN has no such engine, as `why` tells.
// They throw Error(input) where cuDNN is not installed.
class CudnnPlan {
 public:
  virtual ~CudnnPlan() = default;
  virtual std::size_t scratch_bytes() const = 0;
  // Tensors in the order that is said of the plan, aligned to kCudnnAlignment bytes. Any thread may
  // call it.
  virtual void run(Stream& s, std::initializer_list<const Tensor*> tensors,
                   const Tensor& scratch) = 0;
};

inline constexpr std::size_t kCudnnAlignment = 16;

// In which order x, y and w lie, w as (O, KH, KW, C/groups) then; what forward gives; and what dw
// is: f32, or stored.
struct ConvForm {
  bool channels_last = false;
  bool fused = false;  // y = act(conv(x, w) + b), as the spec says, or conv(x, w)
  DType dw = DType::f32;
};

// Tensors of forward: x, w, [b where fused and the spec has one,] y; of backward_data: dy, w, dx;
// of backward_weights: x, dy, dw. The engine is that of the spec's algorithm for the pass. Layouts
// in the spec are not looked at.
CudnnPlan* find_conv_plan(const Device& device, const Conv2dSpec& spec, ConvPass pass,
                          const ConvForm& form, std::string& why);

// q, k, v, y, log_sums; backward: q, k, v, y, dy, log_sums, dq, dk, dv. q, k, v and their gradients
// lie in one qkv and dqkv. spec.stored is a half type.
CudnnPlan* find_attention_plan(const Device& device, const AttentionSpec& spec, bool backward,
                               std::string& why);

std::string cudnn_version(const Device& device);  // "9.19.0"; empty where it is not installed

// The engines in whose order a spec's algorithms are numbered, the first `most` of them, and why
// there are no more: of a chip that need not be here, for tests on machines without a GPU. `chip`
// is what cuDNN writes of such a one, CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION. Engines that are
// compiled when they are asked for need a driver, and are left out without one.
struct CudnnEngine {
  std::string name;  // cuDNN's: the engine's number and how it is set
  std::size_t scratch_bytes = 0;
};
std::vector<CudnnEngine> conv_engines(const std::string& chip, const Conv2dSpec& spec,
                                      ConvPass pass, const ConvForm& form, int most,
                                      std::string& why);

}  // namespace peal::cuda
