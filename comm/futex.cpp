#include "comm/futex.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ctime>

namespace peal {
namespace {

constexpr long kNapNanoseconds = 20'000'000;

}  // namespace

// Not the private kind: the word may be shared between processes.
void futex_sleep(std::atomic<std::uint32_t>& word, std::uint32_t expected) {
  const timespec nap{0, kNapNanoseconds};
  ::syscall(SYS_futex, &word, FUTEX_WAIT, expected, &nap, nullptr, 0);
}

void futex_wake_all(std::atomic<std::uint32_t>& word) {
  ::syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

}  // namespace peal
