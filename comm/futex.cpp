#include "comm/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace peal {

// Not the private kind: the word may be shared between processes.
void futex_sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected,
                 std::chrono::microseconds nap) {
  const timespec time{0, static_cast<long>(nap.count()) * 1000};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, expected, &time, nullptr, 0);
}

void futex_wake_all(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace peal
