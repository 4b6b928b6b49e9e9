// Peal's shard file: a data set cut into files that can be mapped, checked and read at random.
//
// Little-endian. Header (4096 bytes): magic "PEALSHD1", format version, dtype and shape of a
// record, record count, byte offsets of the three sections, xxh64 of each section and of the
// header itself. Sections: records (aligned to 4096), labels (f32), index (u64 offset of each
// record, so that records of different lengths may come later).
#pragma once

#include <functional>

#include "core/data/dataset.h"

namespace peal {

struct ShardOptions {
  std::int64_t count = 0;            // number of shards, or
  std::int64_t bytes_per_shard = 0;  // largest size of one; exactly one of the two is > 0
  // Called with (records written, records in all).
  std::function<void(std::int64_t, std::int64_t)> progress = {};
};

// Writes shard-00000-of-00008.peal ... and, last, manifest.textproto into `directory`. Shards
// differ by at most one record when cut by count. Refuses a directory that holds a manifest.
void write_shards(const Dataset& dataset, const std::filesystem::path& directory,
                  const ShardOptions& options);

// Maps every shard of the manifest; headers, sizes and counts are checked, contents are not.
std::unique_ptr<Dataset> open_shards(const std::filesystem::path& directory);

// Reads every byte back and compares all checksums. Throws Error(input) naming the first bad file
// and section. Returns the number of records.
std::int64_t verify_shards(const std::filesystem::path& directory,
                           const std::function<void(std::int64_t, std::int64_t)>& progress = {});

struct ShardInfo {
  Shape record_shape;
  DType dtype = DType::u8;
  std::int64_t records = 0;
  std::uint64_t bytes = 0;
};
ShardInfo inspect_shard(const std::filesystem::path& file);
bool is_shard(const std::filesystem::path& file);  // by its magic

}  // namespace peal
