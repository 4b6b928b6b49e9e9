// Elements of a stored type (kernels.h) as floats, and back.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>

#include "core/base/dtype.h"
#include "core/base/half_arrays.h"

namespace peal::emulator {

// The elements from number `first` on of an array.
inline void read_stored(const void* from, DType type, std::int64_t first, std::span<float> to) {
  const auto* const at =
      static_cast<const std::byte*>(from) + static_cast<std::size_t>(first) * size_of(type);
  if (type == DType::f32) {
    std::memcpy(to.data(), at, to.size_bytes());
  } else {
    (type == DType::f16 ? widen_f16 : widen_bf16)(reinterpret_cast<const std::uint16_t*>(at),
                                                  to.data(), to.size());
  }
}

inline void write_stored(void* to, DType type, std::span<const float> from) {
  if (type == DType::f32) {
    std::memcpy(to, from.data(), from.size_bytes());
  } else {
    (type == DType::f16 ? narrow_f16 : narrow_bf16)(from.data(), static_cast<std::uint16_t*>(to),
                                                    from.size());
  }
}

}  // namespace peal::emulator
