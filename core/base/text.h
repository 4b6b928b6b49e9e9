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

// 1536 -> "1.5 KiB"
std::string human_bytes(double bytes);

// "128MB", "64 KiB", "4096" -> bytes; decimal and binary units. Throws Error(input) that names
// `where` on anything else.
long long parse_bytes(std::string_view text, std::string_view where);

}  // namespace peal
