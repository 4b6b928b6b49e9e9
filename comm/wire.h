// Values of f32 while they travel in 16 bits. On the CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/dtype.h"

namespace peal {

// f16 or bf16. f16 has a narrow range (6e-8 to 65504): values are multiplied by `scale`, a power of
// two, before they are rounded, and divided by it afterwards. bf16 has the range of f32 and no
// scale.
struct Wire {
  DType dtype = DType::bf16;
  float scale = 1;
};

// Rounds to nearest, ties to even. `from` and `to` are apart.
void narrow(const Wire& wire, const float* from, std::uint16_t* to, std::size_t n);
// False when an f16 is infinite or not a number, which is how values out of its range arrive.
bool widen(const Wire& wire, const std::uint16_t* from, float* to, std::size_t n);

// into[i] += from[i]
void add_f32(const float* from, float* into, std::size_t n);

// into[i] = R(R(into[i]) + R(from[i])), R being the rounding of narrow(). This is the sum of two
// nodes of the tree as all_reduce_tree makes it of 16-bit values, so that it does not matter which
// rank adds what.
void add_rounded(const Wire& wire, const float* from, float* into, std::size_t n);

}  // namespace peal
