#include "core/data/utf8.h"

#include <cstring>

namespace peal {
namespace {

// What the first byte of a character says: how long it is, and between what its second byte lies
// (RFC 3629, section 4).
struct Lead {
  std::size_t bytes = 0;  // 0: begins no character of more than one byte
  std::uint8_t low = 0x80, high = 0xbf;
};

Lead lead_of(std::uint8_t byte) {
  if (byte >= 0xc2 && byte <= 0xdf) return {2};
  if (byte == 0xe0) return {3, 0xa0, 0xbf};
  if (byte == 0xed) return {3, 0x80, 0x9f};
  if (byte >= 0xe1 && byte <= 0xef) return {3};
  if (byte == 0xf0) return {4, 0x90, 0xbf};
  if (byte == 0xf4) return {4, 0x80, 0x8f};
  if (byte >= 0xf1 && byte <= 0xf3) return {4};
  return {};
}

// How many of the bytes behind the first, up to what `lead` says, may follow it.
std::size_t matching(std::string_view text, const Lead& lead) {
  std::size_t n = 1;
  for (; n < lead.bytes && n < text.size(); ++n) {
    const auto byte = static_cast<std::uint8_t>(text[n]);
    const std::uint8_t low = n == 1 ? lead.low : 0x80, high = n == 1 ? lead.high : 0xbf;
    if (byte < low || byte > high) break;
  }
  return n;
}

}  // namespace

Utf8Character utf8_character(std::string_view text) {
  if (text.empty()) return {};
  const auto first = static_cast<std::uint8_t>(text[0]);
  if (first < 0x80) return {first, 1};
  const Lead lead = lead_of(first);
  if (lead.bytes == 0 || matching(text, lead) != lead.bytes) return {};
  std::uint32_t code = first & (0x7fu >> lead.bytes);
  for (std::size_t i = 1; i < lead.bytes; ++i) {
    code = code << 6 | (static_cast<std::uint8_t>(text[i]) & 0x3fu);
  }
  return {code, lead.bytes};
}

// Cost: one look at each byte, eight at a time where they are ASCII.
std::size_t utf8_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight = 0;
    while (text.size() - at >= sizeof eight) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080) != 0) break;
      at += sizeof eight;
    }
    const std::size_t bytes = utf8_character(text.substr(at)).bytes;
    if (bytes == 0) break;
    at += bytes;
  }
  return at;
}

bool utf8_begins(std::string_view text) {
  if (text.empty()) return false;
  const Lead lead = lead_of(static_cast<std::uint8_t>(text[0]));
  return text.size() < lead.bytes && matching(text, lead) == text.size();
}

std::string utf8_bytes(std::uint32_t code) {
  const auto tail = [&](int shift) { return static_cast<char>(0x80 | (code >> shift & 0x3f)); };
  if (code < 0x80) return {static_cast<char>(code)};
  if (code < 0x800) return {static_cast<char>(0xc0 | code >> 6), tail(0)};
  if (code < 0x10000) return {static_cast<char>(0xe0 | code >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xf0 | code >> 18), tail(12), tail(6), tail(0)};
}

}  // namespace peal
