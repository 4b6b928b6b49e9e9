// Sleeping on a word of shared memory.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace peal {

// Sleeps while the word is `expected`: until woken, and no longer than `nap`, so that the caller
// looks at failures and its deadline now and then.
void futex_sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected,
                 std::chrono::microseconds nap = std::chrono::milliseconds(20));
void futex_wake_all(std::atomic<std::uint32_t>& word);

}  // namespace peal
