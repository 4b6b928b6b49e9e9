// How hot loops are compiled: once for each instruction set, chosen when the program starts.
#pragma once

#ifdef PEAL_NO_CLONES
#define PEAL_CLONES
#else
#define PEAL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

// Templates that a cloned function calls must become part of it to be compiled for its set.
#define PEAL_INLINE __attribute__((always_inline)) inline

// For a lambda that they call, between its parameters and its body.
#define PEAL_INLINED __attribute__((always_inline))

// The same, and a loop of a few rounds laid out straight, for what CUDA kernels run too.
#ifdef __CUDACC__
#define PEAL_ANYWHERE __host__ __device__ __forceinline__
#else
#define PEAL_ANYWHERE PEAL_INLINE
#endif
#ifdef __CUDA_ARCH__
#define PEAL_UNROLL _Pragma("unroll")
#elif defined(__CUDACC__)  // its pass for the host knows neither
#define PEAL_UNROLL
#else
#define PEAL_UNROLL _Pragma("GCC unroll 16")
#endif

// Says that elements of one loop do not depend on each other, so that a call in place vectorises
// too (pointers that may be equal cannot be __restrict).
#ifdef __clang__
#define PEAL_ELEMENTWISE _Pragma("clang loop vectorize(assume_safety)")
#else
#define PEAL_ELEMENTWISE _Pragma("GCC ivdep")
#endif
