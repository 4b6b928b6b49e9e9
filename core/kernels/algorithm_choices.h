// Which of a device's ways each matrix product takes (MatmulSpec::algorithm) and each pass of a
// convolution (Conv2dSpec::algorithms), as somebody measured it once: a file that later jobs read,
// so that they all have the same bits. A choice by a measurement in each run would differ from run
// to run.
//
//   version: 1
//   made_on: NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0, cuDNN 9.19.0
//   product: m=8192 n=2304 k=768 bias operands=bf16 result=bf16 algorithm=3
//   convolution: pass=backward_data x=256x64x56x56 w=64x64x3x3 padding=1x1 stored=bf16 algorithm=1
//   end: algorithms
//
// A line each, products first, in order: the fields of a MatmulSpec or a ConvCall that are not as
// they are by default, a bool by its name alone. `#` begins a comment line. What is not there takes
// the device's first way.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "core/kernels/kernels.h"

namespace peal {

// What tells passes of convolutions apart. Bias and activation are forward's alone; how x lies does
// not count.
struct ConvCall {
  ConvCall() = default;
  ConvCall(const Conv2dSpec& spec, ConvPass of_pass);

  ConvPass pass = ConvPass::forward;
  Shape x, w;
  std::array<std::int64_t, 2> stride{1, 1}, padding{0, 0}, dilation{1, 1};
  std::int64_t groups = 1;
  bool bias = false;
  Activation activation = Activation::none;
  Precision precision = Precision::f32;
  DType stored = DType::f32;
  bool fast = false;  // not deterministic
};

// "m=8192 n=2304 k=768 bias operands=bf16 result=bf16": all but the algorithm.
std::string text_of(const MatmulSpec& product);
std::string text_of(const ConvCall& call);

// By every field but the algorithm.
struct AlgorithmOrder {
  bool operator()(const MatmulSpec& a, const MatmulSpec& b) const;
  bool operator()(const ConvCall& a, const ConvCall& b) const;
};

class AlgorithmChoices {
 public:
  static constexpr int kVersion = 1;
  static constexpr int kMostAlgorithm = 63;
  static constexpr std::int64_t kMostSize = std::int64_t{1} << 40;  // of m, n, k, an axis, a stride

  std::string made_on;  // Kernels::algorithm_library

  // 0, the device's first, where nothing else was chosen.
  int algorithm(const MatmulSpec& product) const;
  int algorithm(const ConvCall& call) const;
  // In place of what was chosen before.
  void choose(const MatmulSpec& product, int algorithm);
  void choose(const ConvCall& call, int algorithm);
  std::size_t size() const { return products_.size() + convolutions_.size(); }
  const auto& products() const { return products_; }
  const auto& convolutions() const { return convolutions_; }

  std::uint64_t digest() const;  // of all that is chosen, and on what; not of comments

 private:
  std::map<MatmulSpec, int, AlgorithmOrder> products_;  // none is 0
  std::map<ConvCall, int, AlgorithmOrder> convolutions_;
};

// Throws Error(input) that names `where` and a line on anything but such a file.
AlgorithmChoices parse_algorithm_choices(std::string_view text, const std::string& where);
std::string print_algorithm_choices(const AlgorithmChoices& choices);

// Throws Error(input); files of more than 1 MiB and what is no file are refused unread.
AlgorithmChoices read_algorithm_choices(const std::filesystem::path& path);

}  // namespace peal
