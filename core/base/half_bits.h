// f16 and bf16 to f32 and back, one element: the same bits on the CPU and in CUDA kernels.
#pragma once

#include <bit>
#include <cstdint>

#include "core/base/clones.h"

namespace peal {

// Branch-free, so that it vectorises; subnormals go by way of an integer, which costs no CPU extra.
PEAL_ANYWHERE float widen_f16_bits(std::uint16_t half) {
  const std::uint32_t size = half & 0x7fffu;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const float small = static_cast<float>(static_cast<std::int32_t>(size)) * 0x1p-24f;
  std::uint32_t bits = (size << 13) + (112u << 23);
  bits = size < 0x400u ? std::bit_cast<std::uint32_t>(small) : bits;
  bits = size >= 0x7c00u ? bits | 0x7f800000u : bits;
  return std::bit_cast<float>(bits | sign);
}

// Half of the last bit that stays, less one where that bit is even, rounds what is cut off to
// nearest even.
PEAL_ANYWHERE std::uint16_t narrow_f16_bits(float value) {
  constexpr std::uint32_t kOver = 0x47800000u;  // 2^16
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t size = bits & 0x7fffffffu;
  const std::uint32_t held = size < kOver ? size : kOver;
  std::uint32_t half = (held - (112u << 23) + 0xfffu + (held >> 13 & 1u)) >> 13;
  // Below 2^-14 the last bit of an f16 is 2^-24, which is that of 0.5 + x in f32.
  const float shifted = std::bit_cast<float>(held) + 0.5f;
  half = held < (113u << 23) ? std::bit_cast<std::uint32_t>(shifted) - 0x3f000000u : half;
  half = size > 0x7f800000u ? 0x7e00u : half;
  return static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000u));
}

PEAL_ANYWHERE float widen_bf16_bits(std::uint16_t half) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

// As above. A NaN keeps a bit that the cut cannot lose.
PEAL_ANYWHERE std::uint16_t narrow_bf16_bits(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t rounded = bits + 0x7fffu + (bits >> 16 & 1u);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  return static_cast<std::uint16_t>((nan ? bits | 0x400000u : rounded) >> 16);
}

}  // namespace peal
