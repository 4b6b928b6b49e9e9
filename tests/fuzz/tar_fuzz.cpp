// The tar reader on any bytes, plain or gzip: members whose bytes lie inside the archive and whose
// names stay in a folder, or Error(input). The first byte chooses between tar and names with
// braces. Checksums of headers are made good, so that changes reach what lies behind them.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/base/error.h"
#include "core/data/file_patterns.h"
#include "core/data/gzip.h"
#include "core/data/tar.h"

namespace {

void read_tar(std::span<const std::byte> file) {
  peal::TarReader reader(file, "fuzz");
  peal::TarMember member;
  while (reader.next(member)) {
    if (member.name.starts_with('/') || member.name.find('\0') != std::string::npos) std::abort();
    if (member.name == ".." || member.name.starts_with("../")) std::abort();
    if (member.bytes > (std::uint64_t{1} << 20)) continue;
    std::vector<std::byte> body(member.bytes);
    reader.read(body.data());
    if (peal::is_gzip(file)) continue;
    if (member.offset + member.bytes > file.size()) std::abort();
    if (!std::equal(body.begin(), body.end(), file.begin() + std::ptrdiff_t(member.offset))) {
      std::abort();
    }
  }
}

std::vector<std::byte> mended(std::span<const std::byte> file) {
  std::vector<std::byte> copy(file.begin(), file.end());
  for (std::size_t at = 0; at + 512 <= copy.size(); at += 512) {
    std::byte* header = copy.data() + at;
    if (std::memcmp(header + 257, "ustar", 5) != 0) continue;
    std::memset(header + 148, ' ', 8);
    unsigned sum = 0;
    for (int i = 0; i < 512; ++i) sum += std::to_integer<unsigned>(header[i]);
    char digits[8];
    std::snprintf(digits, sizeof digits, "%06o", sum);
    std::memcpy(header + 148, digits, 7);
  }
  return copy;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto rest = std::as_bytes(std::span(data + 1, size - 1));
  try {
    if (data[0] == 'n') {
      const std::string text(reinterpret_cast<const char*>(rest.data()), rest.size());
      if (peal::expand_braces(text).empty()) std::abort();
    } else {
      const std::vector<std::byte> good = mended(rest);
      read_tar(data[0] == 't' ? std::span<const std::byte>(good) : rest);
    }
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
  return 0;
}
