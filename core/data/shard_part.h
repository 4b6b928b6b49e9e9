// One mapped shard file, checked against its manifest.
#pragma once

#include "core/base/file.h"
#include "core/data/shard_format.h"

namespace peal {

struct ShardPart {
  MappedFile map;
  ShardHeader header;
  std::string name;
  std::int64_t first = 0;  // its first record in the set

  std::span<const std::byte> bytes() const { return {map.data(), map.size()}; }
};

// Checks header, size and counts, and that the header is the one that the manifest announces, but
// not the contents. Throws Error(input) with `name`.
ShardPart open_shard_part(const std::filesystem::path& file, const std::string& name,
                          const ShardManifest& manifest, const ShardManifest::Shard& shard,
                          std::int64_t first);

}  // namespace peal
