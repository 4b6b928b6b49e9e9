#include "launcher/signal_stack.h"

#include <signal.h>

#include <cstddef>

namespace peal {

void use_signal_stack() {
  stack_t there{};
  const bool has_none = ::sigaltstack(nullptr, &there) == 0 && (there.ss_flags & SS_DISABLE) != 0;
  if (!has_none) return;                                       // such as a sanitizer's
  alignas(64) static std::byte memory[std::size_t{64} << 10];  // AMX alone saves 8 KiB
  stack_t own{};
  own.ss_sp = memory;
  own.ss_size = sizeof memory;
  ::sigaltstack(&own, nullptr);
}

}  // namespace peal
