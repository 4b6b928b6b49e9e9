// f16 to f32 and back, for arrays: with the instructions for it (F16C) where the CPU has them.
#pragma once

#include <cstddef>
#include <cstdint>

namespace peal {

void widen_f16(const std::uint16_t* from, float* to, std::size_t n);
// Rounds to nearest, ties to even. `from` and `to` are apart.
void narrow_f16(const float* from, std::uint16_t* to, std::size_t n);

// The same for every CPU.
void widen_f16_portable(const std::uint16_t* from, float* to, std::size_t n);
void narrow_f16_portable(const float* from, std::uint16_t* to, std::size_t n);

}  // namespace peal
