// f16 and bf16 to f32 and back, for arrays; f16 with the instructions for it (F16C) where the CPU
// has them. What is read and what is written are apart. Rounding is to nearest, ties to even.
#pragma once

#include <cstddef>
#include <cstdint>

namespace peal {

void widen_f16(const std::uint16_t* from, float* to, std::size_t n);
void narrow_f16(const float* from, std::uint16_t* to, std::size_t n);
void widen_bf16(const std::uint16_t* from, float* to, std::size_t n);
void narrow_bf16(const float* from, std::uint16_t* to, std::size_t n);

// f16 for every CPU.
void widen_f16_portable(const std::uint16_t* from, float* to, std::size_t n);
void narrow_f16_portable(const float* from, std::uint16_t* to, std::size_t n);

}  // namespace peal
