// The arithmetic of a reduction on one block of elements: two operands into one, and the end.
//
// f16 and bf16 are reduced in f32 and rounded once, to nearest even, at the end. Integers wrap
// around and their mean rounds towards zero. bool: sum and max are "or", product and min are "and";
// it has no mean. A NaN wins min and max.
#pragma once

#include <cstddef>

#include "comm/communicator.h"

namespace peal {

// What one element of a partial result takes: 4 bytes for f16 and bf16, else the element itself.
std::size_t partial_size(DType dtype);
inline bool partial_is_f32(DType dtype) {
  return dtype == DType::f16 || dtype == DType::bf16;
}

// out[i] = a[i] op b[i] for n elements. `out` holds partial results and may be `a` or `b` where
// these do, too, but does not overlap them otherwise.
using CombineBlock = void (*)(ReduceOp op, std::byte* out, const std::byte* a, const std::byte* b,
                              std::size_t n);
// `a_partial`: a holds partial results, not elements as users have them; `b_partial` alike.
CombineBlock combine_of(DType dtype, bool a_partial, bool b_partial);

// out[i] = the element that partial[i] / divisor is, rounded. `out` and `partial` are apart.
using FinishBlock = void (*)(std::byte* out, const std::byte* partial, int divisor, std::size_t n);
FinishBlock finish_of(DType dtype);

}  // namespace peal
