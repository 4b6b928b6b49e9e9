// The twin of core/kernels/cuda/ptx.cuh in C++, which translated kernels find first.
#pragma once

#include <cmath>

namespace peal::cuda {

inline void store_global(void* to, uint4 of) {
  *static_cast<uint4*>(to) = of;
}
inline void store_global(void* to, uint2 of) {
  *static_cast<uint2*>(to) = of;
}
inline void store_global(void* to, float4 of) {
  *static_cast<float4*>(to) = of;
}

inline float exp2_approx(float x) {
  return x < -126 ? 0.0f : std::exp2(x);
}

}  // namespace peal::cuda
