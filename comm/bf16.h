// bf16 to f32 and back, for loops that vectorise.
#pragma once

#include <bit>
#include <cstdint>

#include "core/base/clones.h"

namespace peal {

PEAL_INLINE float widen_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// Half of the last bit that stays, less one where that bit is even: what is cut off rounds to
// nearest even. A NaN keeps a bit that the cut cannot lose.
PEAL_INLINE std::uint16_t narrow_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>((nan ? bits | 0x400000u : rounded) >> 16);
}

}  // namespace peal
