#include "core/base/text.h"

#include <array>
#include <cctype>
#include <charconv>
#include <cstdio>

#include "core/base/error.h"

namespace peal {

std::string join(const std::vector<std::string>& parts, std::string_view separator) {
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += separator;
    out += parts[i];
  }
  return out;
}

std::string human_bytes(double bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < kUnits.size()) {
    bytes /= 1024;
    ++unit;
  }
  char text[32];
  std::snprintf(text, sizeof text, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, kUnits[unit]);
  return text;
}

long long parse_bytes(std::string_view text, std::string_view where) {
  const auto fail = [&]() -> long long {
    throw Error(ErrorKind::input, std::string(where),
                cat("\"", text,
                    "\" is no size; write a whole number with an optional unit B, KB, "
                    "MB, GB, TB, KiB, MiB, GiB or TiB, such as 128MB"));
  };
  long long value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || value < 0) return fail();
  std::string unit;
  for (const char* c = end; c != text.data() + text.size(); ++c) {
    if (*c != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*c)));
  }
  static constexpr std::array<std::pair<const char*, long long>, 10> kUnits = {
      {{"", 1},
       {"b", 1},
       {"kb", 1000},
       {"mb", 1000000},
       {"gb", 1000000000},
       {"tb", 1000000000000},
       {"kib", 1LL << 10},
       {"mib", 1LL << 20},
       {"gib", 1LL << 30},
       {"tib", 1LL << 40}}};
  for (const auto& [name, factor] : kUnits) {
    if (unit != name) continue;
    if (value > INT64_MAX / factor) return fail();
    return value * factor;
  }
  return fail();
}

}  // namespace peal
