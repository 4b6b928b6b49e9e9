// A GPU of threads that take turns on the CPU: what a translated kernel (translate.py) is launched
// with and calls. README.md tells what it shows and what it cannot.
//
// A launch is done when it returns. Threads of a block run in the order of their numbers or the
// other way round, blocks as well, by a coin that is thrown for each launch, the same in every run:
// what depends on the order without a barrier becomes wrong. Threads that wait for others that
// never come and warps that part before an exchange end the program with the kernel's name; a
// launch that is larger than a GPU allows throws Error(internal).
#pragma once

#include <cuda_runtime_api.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

namespace peal::emulator {

constexpr unsigned kWarpSize = 32;
constexpr std::size_t kSharedWithoutAsking = 48 << 10;  // bytes of a block
constexpr std::size_t kMostShared = 227 << 10;          // as on an H100

struct Here {
  uint3 thread, block;
  dim3 threads, blocks;
};
Here& here();  // of the thread that runs now

// What every thread of the grid calls, once. Taken by value, as it may be recorded.
void launch(const char* kernel, std::function<void()> thread, dim3 blocks, dim3 threads,
            std::size_t shared_bytes = 0, cudaStream_t stream = nullptr);
// Work of another kind, in a stream's order.
void enqueue(cudaStream_t stream, std::function<void()> work);

void* dynamic_shared_bytes();
template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(dynamic_shared_bytes());
}

// Memory of a block that is a static variable here: the first thread of a block that comes to its
// declaration fills it with ones, which are NaN.
std::uint64_t block_number();  // of all blocks since the program began
template <typename T>
void forget_in_a_new_block(std::uint64_t& last, T& shared) {
  static_assert(std::is_trivially_copyable_v<T>);
  if (last == block_number()) return;
  last = block_number();
  std::memset(static_cast<void*>(&shared), 0xff, sizeof shared);
}
#define PEAL_FORGET_IN_A_NEW_BLOCK(shared)    \
  static std::uint64_t block_of_##shared = 0; \
  ::peal::emulator::forget_in_a_new_block(block_of_##shared, shared)

void allow_shared(const void* kernel, std::size_t bytes);

// ---- Waiting ----------------------------------------------------------------------------------

// How many threads of the block call it with true.
int sync_threads(bool counted = false);
// The lanes of `mask` that have not ended meet; each hands in `bits`, and gets those of lane
// `source` of its warp, or its own where it names itself.
enum class Exchange : std::uint8_t { sync, ballot, shuffle };
std::uint64_t exchange(Exchange kind, unsigned mask, std::uint64_t bits, unsigned source);
unsigned ballot(unsigned mask, bool mine);

template <typename T>
T shuffle_xor(unsigned mask, T value, int with, int width) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t) && std::is_trivially_copyable_v<T>);
  const unsigned lane = here().thread.x % kWarpSize;
  unsigned source = lane ^ static_cast<unsigned>(with);
  if (source / static_cast<unsigned>(width) > lane / static_cast<unsigned>(width)) source = lane;
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = exchange(Exchange::shuffle, mask, bits, source);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace peal::emulator
