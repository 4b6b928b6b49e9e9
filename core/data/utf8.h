// Characters of UTF-8 (RFC 3629), in bytes that may be anything.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace peal {

struct Utf8Character {
  std::uint32_t code = 0;
  std::size_t bytes = 0;  // 1 to 4; 0: no character begins here
};

// The character that `text` begins with. None where it is empty, and for overlong forms,
// surrogates, codes above U+10FFFF and what is cut short.
Utf8Character utf8_character(std::string_view text);

// How many bytes `text` begins with that are characters, all of them whole.
std::size_t utf8_prefix(std::string_view text);

// Whether `text` is not whole yet but begins a character: more bytes may make it one.
bool utf8_begins(std::string_view text);

// The bytes of a code point, which must be one.
std::string utf8_bytes(std::uint32_t code);

}  // namespace peal
