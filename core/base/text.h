// Text building: cat("axis ", axis, " of ", rank) without a format library in any header.
#pragma once

#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace peal {

// Joins its arguments as operator<< prints them.
template <typename... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// "a, b, c"
std::string join(const std::vector<std::string>& parts, std::string_view separator = ", ");

// Text of a file as a message can show it: in quotes, at most `most` bytes of it, '?' for control
// characters.
std::string shown(std::string_view text, std::size_t most = 40);

// 1536 -> "1.5 KiB"
std::string human_bytes(double bytes);

// "128MB", "64 KiB", "64K", "4096" -> bytes. A whole number, at most one space, a unit in any case:
// KB, MB, GB, TB are powers of 1000; KiB, MiB, GiB, TiB and K, M, G, T powers of 1024. Throws
// Error(input) that names `where` and says what is allowed on anything else, and on more than
// 2^63 - 1 bytes.
long long parse_bytes(std::string_view text, std::string_view where);

}  // namespace peal
