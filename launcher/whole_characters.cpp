#include "launcher/whole_characters.h"

#include <algorithm>

#include "core/data/utf8.h"

namespace peal {
namespace {

bool is_control(std::uint32_t code) {
  return (code < 0x20 && code != '\n' && code != '\t') || (code >= 0x7f && code < 0xa0);
}

}  // namespace

std::string WholeCharacters::add(std::string_view bytes) {
  waiting_ += bytes;
  return take(/*all=*/false);
}

std::string WholeCharacters::end() {
  return take(/*all=*/true);
}

std::string WholeCharacters::take(bool all) {
  std::string shown;
  std::string_view rest = waiting_;
  while (!rest.empty() && (all || !utf8_begins(rest))) {
    const Utf8Character character = utf8_character(rest);
    const bool good = character.bytes > 0 && !is_control(character.code);
    const std::string_view bytes = rest.substr(0, std::max<std::size_t>(character.bytes, 1));
    if (terminal_ && !good) {
      shown += utf8_bytes(0xfffd);
    } else {
      shown += bytes;
    }
    rest.remove_prefix(bytes.size());
  }
  waiting_ = std::string(rest);
  return shown;
}

}  // namespace peal
