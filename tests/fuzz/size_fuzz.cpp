// Any text is a size or an Error(input) that names where it stood. A size is read by a second,
// slower reader as the same number, in 128 bits.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/error.h"

namespace {

using Wide = __int128;
constexpr Wide kLargest = INT64_MAX;

// -1: no size.
Wide read_slowly(const std::string& text) {
  std::size_t at = 0;
  Wide value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    value = value * 10 + (text[at] - '0');
    if (value > kLargest) value = kLargest + 1;
  }
  if (at == 0) return -1;
  std::string unit = text.substr(at);
  if (unit.size() > 1 && unit[0] == ' ') unit.erase(0, 1);
  for (char& c : unit) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  if (unit.empty() || unit == "b") return value;
  Wide binary = 1, decimal = 1;
  for (const char letter : {'k', 'm', 'g', 't'}) {
    binary *= 1024;
    decimal *= 1000;
    if (unit == std::string{letter} || unit == std::string{letter, 'i', 'b'}) return value * binary;
    if (unit == std::string{letter, 'b'}) return value * decimal;
  }
  return -1;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const Wide expected = read_slowly(text);
  try {
    if (peal::parse_bytes(text, "fuzz") != expected) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || error.where() != "fuzz") std::abort();
    if (expected >= 0 && expected <= kLargest) std::abort();
  }
  return 0;
}
