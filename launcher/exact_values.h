// Inputs of collectives whose results are known to the bit: small whole numbers, which are added up
// exactly (f16 and bf16: in f32, and rounded once); for bool their last bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/dtype.h"

namespace peal {

// An endless array that repeats after a prime number of elements, so that a slice at the wrong
// place does not look right. Bytes of one period are made once.
class ExactValues {
 public:
  static ExactValues of_rank(DType dtype, int rank);        // 1, 2 or 3 in every element
  static ExactValues sum_of_ranks(DType dtype, int ranks);  // of bool: "or"

  // Elements [first, first + count) of the array, to or against the memory at `data`.
  void fill(std::byte* data, std::int64_t first, std::int64_t count) const;
  std::int64_t wrong(const std::byte* data, std::int64_t first, std::int64_t count) const;

 private:
  ExactValues(DType dtype, const std::vector<int>& period);

  std::size_t element_size_;
  std::vector<std::byte> period_;
};

}  // namespace peal
