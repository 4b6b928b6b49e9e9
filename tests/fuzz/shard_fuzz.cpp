// Shard files and manifests on any bytes. The first byte chooses: a manifest; a shard as it is; or
// the first 160 bytes of a header, the rest of which, checksum included, is made good.
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/data/shard_format.h"

namespace {

void check_shard(std::span<const std::byte> file) {
  const peal::ShardHeader header = peal::parse_shard_header(file, "fuzz");
  for (const peal::ShardSection& section : header.sections) {
    if (section.offset > file.size() || section.bytes > file.size() - section.offset) std::abort();
  }
  peal::check_shard_contents(file, header, "fuzz");
}

void check_completed(std::span<const std::byte> bytes) {
  constexpr std::size_t kFields = 160;
  const std::size_t head = std::min(bytes.size(), kFields);
  std::vector<std::byte> file(peal::kShardHeaderBytes);
  std::copy(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(head), file.begin());
  const std::uint64_t sum = peal::xxh64(file.data(), peal::kShardHeaderBytes - 8);
  std::memcpy(file.data() + peal::kShardHeaderBytes - 8, &sum, sizeof sum);
  file.insert(file.end(), bytes.begin() + static_cast<std::ptrdiff_t>(head), bytes.end());
  check_shard(file);
}

void check_manifest(std::string_view text) {
  const std::string written = peal::format_shard_manifest(peal::parse_shard_manifest(text, "fuzz"));
  if (peal::format_shard_manifest(peal::parse_shard_manifest(written, "fuzz")) != written) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto rest = std::as_bytes(std::span(data + 1, size - 1));
  try {
    if (data[0] == 'm') {
      check_manifest({reinterpret_cast<const char*>(rest.data()), rest.size()});
    } else if (data[0] == 's') {
      check_shard(rest);
    } else {
      check_completed(rest);
    }
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
  return 0;
}
