// What a Layout is to everybody but the backend that made it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace peal {

// A backend derives its own description. Layouts are interned: made once, never freed, so that
// equal ones are one object.
struct Layout {
  explicit Layout(std::size_t size) : bytes(size) {}
  virtual ~Layout() = default;
  std::size_t bytes;
  // Channels that lie side by side: (B, C / channel_block, H * W, channel_block); 0: another order.
  std::int64_t channel_block = 0;
  // Elements from the start of a row, the last axis, to that of the next; 0: another order. Behind
  // a row lies what no result may depend on, behind a gradient's row zeros.
  std::int64_t row_pitch = 0;
};

}  // namespace peal
