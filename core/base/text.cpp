#include "core/base/text.h"

#include <array>
#include <cctype>
#include <charconv>
#include <cstdint>
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

std::string shown(std::string_view text, std::size_t most) {
  std::string out = "\"";
  for (const char c : text.substr(0, most)) {
    const bool plain = static_cast<unsigned char>(c) >= 0x20 && c != 0x7f;
    out += plain ? c : '?';
  }
  return out + (text.size() > most ? "...\"" : "\"");
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

namespace {

// How many bytes a unit stands for; 0: it is none. A lone letter is binary, as in dd and
// nccl-tests.
long long unit_bytes(std::string_view unit) {
  std::string lower;
  for (const char c : unit) {
    lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  if (lower.empty() || lower == "b") return 1;
  const std::size_t power = std::string_view("kmgt").find(lower[0]);
  if (power == std::string_view::npos) return 0;
  const std::string_view rest = std::string_view(lower).substr(1);
  if (rest != "" && rest != "b" && rest != "ib") return 0;
  long long bytes = 1;
  for (std::size_t i = 0; i <= power; ++i) bytes *= rest == "b" ? 1000 : 1024;
  return bytes;
}

}  // namespace

long long parse_bytes(std::string_view text, std::string_view where) {
  const auto fail = [&](std::string_view why) {
    throw Error(ErrorKind::input, std::string(where),
                cat("\"", text, "\" ", why,
                    "; write a whole number with an optional unit B, KB, MB, GB, TB (1000), KiB, "
                    "MiB, GiB, TiB, K, M, G, T (1024), such as 128MB"));
  };
  constexpr std::string_view kTooLarge = "is more than 2^63 - 1 bytes";
  long long value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code == std::errc::result_out_of_range && text[0] != '-') fail(kTooLarge);
  if (code != std::errc() || text[0] == '-') fail("is no size");
  std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (unit.size() > 1 && unit[0] == ' ') unit.remove_prefix(1);
  const long long factor = unit_bytes(unit);
  if (factor == 0) fail("is no size");
  if (value > INT64_MAX / factor) fail(kTooLarge);
  return value * factor;
}

}  // namespace peal
