// How hot loops are compiled: once for each instruction set, chosen when the program starts.
#pragma once

#ifdef PEAL_NO_CLONES
#define PEAL_CLONES
#else
#define PEAL_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif

// Templates that a cloned function calls must become part of it to be compiled for its set.
#define PEAL_INLINE __attribute__((always_inline)) inline

// Says that elements of one loop do not depend on each other, so that a call in place vectorises
// too (pointers that may be equal cannot be __restrict).
#ifdef __clang__
#define PEAL_ELEMENTWISE _Pragma("clang loop vectorize(assume_safety)")
#else
#define PEAL_ELEMENTWISE _Pragma("GCC ivdep")
#endif
