// Which of a device's ways each matrix product takes (MatmulSpec::algorithm), as somebody measured
// it once: a file that later jobs read, so that they all have the same bits. A choice by a
// measurement in each run would differ from run to run.
//
//   version: 1
//   made_on: NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0
//   product: m=8192 n=2304 k=768 bias operands=bf16 result=bf16 algorithm=3
//   end: products
//
// A line a product, in order: the fields of its MatmulSpec that are not as they are by default, a
// bool by its name alone. `#` begins a comment line. Products that are not there take the device's
// first way.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "core/kernels/kernels.h"

namespace peal {

// "m=8192 n=2304 k=768 bias operands=bf16 result=bf16": all but the algorithm.
std::string text_of(const MatmulSpec& product);

// By what tells products apart: every field but the algorithm.
struct ProductOrder {
  bool operator()(const MatmulSpec& a, const MatmulSpec& b) const;
};

class ProductChoices {
 public:
  static constexpr int kVersion = 1;
  static constexpr int kMostAlgorithm = 63;
  static constexpr std::int64_t kMostSize = std::int64_t{1} << 40;  // of batch, m, n and k

  std::string made_on;  // Kernels::product_library

  // 0, the device's first, where nothing else was chosen.
  int algorithm(const MatmulSpec& product) const;
  void choose(const MatmulSpec& product, int algorithm);  // in place of what was chosen before
  std::size_t size() const { return chosen_.size(); }
  const auto& all() const { return chosen_; }

  std::uint64_t digest() const;  // of all that is chosen, and on what; not of comments

 private:
  std::map<MatmulSpec, int, ProductOrder> chosen_;  // none is 0
};

// Throws Error(input) that names `where` and a line on anything but such a file.
ProductChoices parse_product_choices(std::string_view text, const std::string& where);
std::string print_product_choices(const ProductChoices& choices);

// Throws Error(input); files of more than 1 MiB and what is no file are refused unread.
ProductChoices read_product_choices(const std::filesystem::path& path);

}  // namespace peal
