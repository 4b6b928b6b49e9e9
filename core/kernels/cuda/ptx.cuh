// The instructions that are written out, as the compiler does not choose them by itself. For .cu
// files alone; tests/emulator has a twin that is C++.
#pragma once

namespace peal::cuda {

// To global memory, aligned to as many bytes as are written.
__device__ inline void store_global(void* to, uint4 of) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "r"(of.x), "r"(of.y), "r"(of.z), "r"(of.w)
               : "memory");
}
__device__ inline void store_global(void* to, uint2 of) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(to)), "r"(of.x),
               "r"(of.y)
               : "memory");
}
__device__ inline void store_global(void* to, float4 of) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(to)),
               "f"(of.x), "f"(of.y), "f"(of.z), "f"(of.w)
               : "memory");
}

// 2^x of the special function unit; what is below 2^-126 becomes 0.
__device__ inline float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace peal::cuda
