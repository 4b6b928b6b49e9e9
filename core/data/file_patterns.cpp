#include "core/data/file_patterns.h"

#include <glob.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>

#include "core/base/error.h"

namespace peal {
namespace {

constexpr std::size_t kMostNames = 100000;

[[noreturn]] void fail_count(const std::string& text) {
  fail_input(text, "names more than ", kMostNames, " files");
}

std::optional<std::uint32_t> number(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || code != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

// 08..11
std::vector<std::string> number_range(std::string_view inside, const std::string& text) {
  const std::size_t dots = inside.find("..");
  const std::string_view first = inside.substr(0, dots), last = inside.substr(dots + 2);
  const auto low = number(first), high = number(last);
  if (!low || !high || *low > *high) {
    fail_input(text, "{", inside,
               "} is no range; allowed are two numbers below 2^32, the smaller "
               "one first, such as {000..127}");
  }
  if (*high - *low >= kMostNames) fail_count(text);
  std::vector<std::string> names;
  for (std::uint32_t i = *low;; ++i) {
    std::string name = std::to_string(i);
    if (name.size() < first.size()) name.insert(0, first.size() - name.size(), '0');
    names.push_back(std::move(name));
    if (i == *high) return names;
  }
}

std::vector<std::string> choices(std::string_view inside, const std::string& text) {
  if (inside.find(',') == std::string_view::npos && inside.find("..") != std::string_view::npos) {
    return number_range(inside, text);
  }
  std::vector<std::string> names;
  for (std::size_t begin = 0;;) {
    const std::size_t comma = inside.find(',', begin);
    names.emplace_back(inside.substr(begin, comma - begin));
    if (comma == std::string_view::npos) return names;
    begin = comma + 1;
  }
}

std::vector<std::string> matches(const std::string& pattern) {
  if (pattern.find_first_of("*?[") == std::string::npos) return {pattern};
  glob_t found{};
  const int code = ::glob(pattern.c_str(), GLOB_ERR | GLOB_NOSORT, nullptr, &found);
  std::vector<std::string> names(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  if (code == GLOB_NOMATCH) fail_input(pattern, "matches no file");
  if (code != 0) fail_input(pattern, "cannot read the folder of this pattern");
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

std::vector<std::string> expand_braces(const std::string& text) {
  std::vector<std::string> names = {""};
  const std::string_view view = text;
  for (std::size_t at = 0; at < view.size();) {
    const std::size_t open = std::min(view.find_first_of("{}", at), view.size());
    for (std::string& name : names) name += view.substr(at, open - at);
    if (open == view.size()) break;
    const std::size_t close = view.find_first_of("{}", open + 1);
    if (view[open] != '{' || close == std::string_view::npos || view[close] != '}') {
      fail_input(text, "braces do not match; allowed are {a,b} and {000..127}, not one in another");
    }
    const std::vector<std::string> parts = choices(view.substr(open + 1, close - open - 1), text);
    if (names.size() * parts.size() > kMostNames) fail_count(text);
    std::vector<std::string> longer;
    for (const std::string& name : names) {
      for (const std::string& part : parts) longer.push_back(name + part);
    }
    names = std::move(longer);
    at = close + 1;
  }
  return names;
}

std::vector<std::filesystem::path> find_files(const std::vector<std::string>& patterns,
                                              const std::string& where) {
  std::vector<std::filesystem::path> files;
  std::set<std::string> seen;
  for (const std::string& pattern : patterns) {
    for (const std::string& name : expand_braces(pattern)) {
      for (std::string& path : matches(name)) {
        if (!seen.insert(path).second) fail_input(path, "is named twice");
        files.emplace_back(std::move(path));
      }
    }
  }
  if (files.empty()) fail_input(where, "names no files");
  return files;
}

}  // namespace peal
