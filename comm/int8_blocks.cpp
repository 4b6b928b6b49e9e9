#include "comm/int8_blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "comm/wire.h"
#include "core/base/clones.h"

namespace peal {
namespace {

constexpr float kMostInt8 = 127;
// Blocks of smaller values are zero: 127 / size would not be finite. All of them is left over.
constexpr float kLeast = 1e-30f;

float scale_at(const std::byte* block) {
  float scale;
  std::memcpy(&scale, block, sizeof scale);
  return scale;
}

// The largest size; NaN is larger than infinity here, as its bits are.
PEAL_CLONES float largest(const float* x, std::size_t n) {
  std::uint32_t most = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(x[i]) & 0x7fffffffu;
    most = most < bits ? bits : most;
  }
  return std::bit_cast<float>(most);
}

// Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits.
PEAL_CLONES void round_block(const float* x, float inverse, std::int8_t* q, std::size_t n) {
  constexpr float kMagic = 0x1.8p23f;
  for (std::size_t i = 0; i < n; ++i) {
    const std::int32_t bits = std::bit_cast<std::int32_t>(x[i] * inverse + kMagic);
    q[i] = static_cast<std::int8_t>(bits - std::bit_cast<std::int32_t>(kMagic));
  }
}

PEAL_CLONES void subtract_block(const std::int8_t* q, float scale, float* from, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) from[i] -= scale * static_cast<float>(q[i]);
}

PEAL_CLONES void add_block(const std::int8_t* q, float scale, float* into, std::size_t n) {
  PEAL_ELEMENTWISE
  for (std::size_t i = 0; i < n; ++i) into[i] += scale * static_cast<float>(q[i]);
}

PEAL_CLONES void widen_block(const std::int8_t* q, float scale, float* to, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) to[i] = scale * static_cast<float>(q[i]);
}

// Writes one block of n <= block values of `x`, which become what is left.
void write_block(float* x, std::size_t n, std::size_t block, std::byte* out) {
  auto* q = reinterpret_cast<std::int8_t*>(out + sizeof(float));
  const float size = largest(x, n);
  float scale = size / kMostInt8;
  if (!std::isfinite(size)) scale = std::numeric_limits<float>::quiet_NaN();
  if (size < kLeast || !std::isfinite(size)) {
    if (size < kLeast) scale = 0;
    std::memset(q, 0, block);
  } else {
    round_block(x, kMostInt8 / size, q, n);
    std::memset(q + n, 0, block - n);
    subtract_block(q, scale, x, n);
  }
  std::memcpy(out, &scale, sizeof scale);
}

// work(first value, values, offset of the block)
template <typename Work>
void for_blocks(std::size_t n, std::size_t block, Work work) {
  std::size_t offset = 0;
  for (std::size_t at = 0; at < n; at += block, offset += int8_block_bytes(block)) {
    work(at, std::min(block, n - at), offset);
  }
}

const std::int8_t* numbers(const std::byte* block) {
  return reinterpret_cast<const std::int8_t*>(block + sizeof(float));
}

}  // namespace

void quantize_int8(const float* x, float* error, std::size_t n, std::size_t block, std::byte* out) {
  for_blocks(n, block, [&](std::size_t at, std::size_t some, std::size_t offset) {
    add_f32(x + at, error + at, some);
    write_block(error + at, some, block, out + offset);
  });
}

void reduce_int8(std::span<const std::byte* const> in, float* error, std::size_t n,
                 std::size_t block, std::byte* out) {
  alignas(64) float sum[kInt8MostBlock];
  for_blocks(n, block, [&](std::size_t at, std::size_t some, std::size_t offset) {
    widen_block(numbers(in[0] + offset), scale_at(in[0] + offset), sum, some);
    for (std::size_t k = 1; k < in.size(); ++k) {
      add_block(numbers(in[k] + offset), scale_at(in[k] + offset), sum, some);
    }
    write_block(sum, some, block, out + offset);
    add_f32(sum, error + at, some);
  });
}

bool dequantize_int8(const std::byte* in, std::size_t n, std::size_t block, float* to) {
  bool finite = true;
  for_blocks(n, block, [&](std::size_t at, std::size_t some, std::size_t offset) {
    const float scale = scale_at(in + offset);
    finite &= std::isfinite(scale);
    widen_block(numbers(in + offset), scale, to + at, some);
  });
  return finite;
}

}  // namespace peal
