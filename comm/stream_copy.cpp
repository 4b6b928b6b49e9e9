#include "comm/stream_copy.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace peal {

#if defined(__x86_64__)
namespace {

constexpr std::size_t kLine = 64;

// Whole lines at once: written in parts they reach memory at four fifths of the speed.
__attribute__((target("avx512f"))) void stream_lines_512(std::byte* to, const std::byte* from,
                                                         std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += kLine) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
  }
}

void stream_lines_128(std::byte* to, const std::byte* from, std::size_t bytes) {
  for (std::size_t i = 0; i < bytes; i += sizeof(__m128i)) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
}

}  // namespace

void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  static const auto stream_lines =
      __builtin_cpu_supports("avx512f") != 0 ? stream_lines_512 : stream_lines_128;
  const std::size_t head = std::min(bytes, -reinterpret_cast<std::uintptr_t>(to) % kLine);
  const std::size_t lines = (bytes - head) / kLine * kLine, tail = bytes - head - lines;
  if (head > 0) std::memcpy(to, from, head);
  stream_lines(to + head, from + head, lines);
  if (tail > 0) std::memcpy(to + head + lines, from + head + lines, tail);
}

void stream_fence() {
  _mm_sfence();
}

#else

void stream_copy(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void stream_fence() {}

#endif

}  // namespace peal
