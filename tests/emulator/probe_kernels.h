// Launches of probe_kernels.cu.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

#include "core/device/stream.h"

namespace peal::emulator {

// Of n floats, up to 1,024; without its barrier it is wrong.
void reverse(Stream& s, bool waits, unsigned n, const float* from, float* to);
// Three floats of each block: shared memory that block 0 alone has written.
void first_write(Stream& s, unsigned blocks, float* to);
// to[i] += i for each thread of the grid.
void number(Stream& s, dim3 blocks, dim3 threads, std::size_t shared_bytes, int* to);
void allow(std::size_t shared_bytes);  // for number
// At each thread the sum over its warp or its 8 lanes, and who of the warp is positive.
void warps(Stream& s, unsigned blocks, unsigned threads, bool eights, const double* from,
           double* sums, unsigned* votes);
// At each of 256 threads the sum over its block, and how many are positive.
void blocks(Stream& s, unsigned count, const double* from, double* sums, int* counts);

// half_waits: at a barrier; others_end: while one waits; warp_parts: half of it votes.
enum class Fault : std::uint8_t { none, half_waits, others_end, warp_parts };
void wait(Stream& s, Fault fault);

// Four zeros from to[at] on, at once.
void store(Stream& s, float* to, int at);

}  // namespace peal::emulator
