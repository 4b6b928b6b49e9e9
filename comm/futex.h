// Sleeping on a word of shared memory.
#pragma once

#include <atomic>
#include <cstdint>

namespace peal {

// Sleeps while the word is `expected`: until woken, and for 20 ms at most, so that the caller looks
// at failures and its deadline now and then.
void futex_sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected);
void futex_wake_all(std::atomic<std::uint32_t>& word);

}  // namespace peal
