// What a Layout is to everybody but the backend that made it: a number of bytes.
#pragma once

#include <cstddef>

namespace peal {

// A backend derives its own description. Layouts are interned: made once, never freed, so that
// equal ones are one object.
struct Layout {
  explicit Layout(std::size_t size) : bytes(size) {}
  virtual ~Layout() = default;
  std::size_t bytes;
};

}  // namespace peal
