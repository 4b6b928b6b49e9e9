// Text that comes in pieces of bytes, shown character by character.
#pragma once

#include <string>
#include <string_view>

namespace peal {

class WholeCharacters {
 public:
  // On a terminal bytes that are no UTF-8, and control characters other than line ends and tabs,
  // become U+FFFD: what a model says must not steer it. Elsewhere all bytes stay as they are.
  explicit WholeCharacters(bool terminal) : terminal_(terminal) {}

  // What can be shown by now: the start of a character waits for its end.
  std::string add(std::string_view bytes);
  std::string end();  // what still waits

 private:
  std::string take(bool all);

  bool terminal_;
  std::string waiting_;
};

}  // namespace peal
