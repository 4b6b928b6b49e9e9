#include "core/data/shard_part.h"

#include "core/base/checksum.h"
#include "core/base/error.h"

namespace peal {
namespace {

void check_against_manifest(const ShardPart& part, const ShardManifest& manifest,
                            const ShardManifest::Shard& shard) {
  const ShardHeader& header = part.header;
  if (!(header.record_shape == manifest.record_shape) || header.dtype != manifest.dtype) {
    fail_input(part.name, "records of shape ", header.record_shape, " and dtype ",
               name_of(header.dtype), "; the manifest announces ", manifest.record_shape, " and ",
               name_of(manifest.dtype));
  }
  if (header.records != shard.records || header.file_bytes != shard.bytes) {
    fail_input(part.name, "holds ", header.records, " records in ", header.file_bytes,
               " bytes; the manifest announces ", shard.records, " in ", shard.bytes);
  }
  const std::uint64_t sum = xxh64(part.map.data(), kShardHeaderBytes);
  if (sum != shard.xxh64) {
    fail_input(part.name, "is another file than the manifest's: its header's checksum is ",
               hex(sum), ", the manifest announces ", hex(shard.xxh64));
  }
}

}  // namespace

ShardPart open_shard_part(const std::filesystem::path& file, const std::string& name,
                          const ShardManifest& manifest, const ShardManifest::Shard& shard,
                          std::int64_t first) {
  ShardPart part{MappedFile(file), {}, name, first};
  part.header = parse_shard_header(part.bytes(), part.name);
  check_against_manifest(part, manifest, shard);
  return part;
}

}  // namespace peal
