// Arrays of f32 as blocks of 8-bit numbers with one scale a block: value = scale * q, |q| <= 127,
// scale = the largest size in the block / 127. A block is its scale (f32), then its q; the last
// one is filled up with zeros. On the CPU.
#pragma once

#include <cstddef>
#include <span>

namespace peal {

constexpr std::size_t int8_block_bytes(std::size_t block) {
  return sizeof(float) + block;
}
constexpr std::size_t int8_blocks(std::size_t n, std::size_t block) {
  return (n + block - 1) / block;
}

// Largest block; a multiple of 4, so that scales are aligned.
inline constexpr std::size_t kInt8MostBlock = 4096;

// Quantises x[i] + error[i], rounded to nearest, into all blocks of `out`; error[i] becomes what is
// left. A block with a value that is not finite has a scale that is NaN.
void quantize_int8(const float* x, float* error, std::size_t n, std::size_t block, std::byte* out);

// Adds up arrays of blocks, in order, in f32, and quantises the sums into `out`, which may be one
// of `in`; what is left is added to error[i].
void reduce_int8(std::span<const std::byte* const> in, float* error, std::size_t n,
                 std::size_t block, std::byte* out);

// False when a scale is not finite.
bool dequantize_int8(const std::byte* in, std::size_t n, std::size_t block, float* to);

}  // namespace peal
