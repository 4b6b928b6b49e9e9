// Peal's shard file: a data set cut into files that can be mapped, checked and read at random.
//
// Little-endian. Header (4096 bytes): magic "PEALSHD1", format version, dtype and shape of a
// record, record count, byte offsets of the three sections, xxh64 of each section and of the
// header itself. Sections: records (aligned to 4096), labels (f32), index (u64 offset of each
// record, so that records of different lengths may come later).
#pragma once

#include <functional>
#include <optional>
#include <span>

#include "core/data/record_source.h"

namespace peal {

struct ShardOptions {
  std::int64_t count = 0;            // number of shards, or
  std::int64_t bytes_per_shard = 0;  // largest size of one; exactly one of the two is > 0
};

// Which records of a source stand in which shard: in order, shards differ by at most one record.
// A pure function of what it is made of.
class ShardPlan {
 public:
  // The first `records` of the source but for those `skipped` (ascending). Throws Error(input).
  ShardPlan(const RecordSource& source, std::int64_t records, std::vector<std::int64_t> skipped,
            const ShardOptions& options);

  std::int64_t count() const { return count_; }
  std::int64_t records() const { return records_; }  // without those skipped
  std::int64_t records(std::int64_t shard) const;
  std::int64_t first(std::int64_t shard) const;
  std::string file(std::int64_t shard) const;             // shard-00000-of-00008.peal
  std::int64_t source_record(std::int64_t record) const;  // of the one at this place
  const Shape& record_shape() const { return shape_; }
  DType dtype() const { return dtype_; }

 private:
  Shape shape_;
  DType dtype_;
  std::int64_t records_;
  std::int64_t count_ = 0;
  std::vector<std::int64_t> skipped_;
};

// Writes one shard under a temporary name, syncs and renames it. Returns the checksum of its
// header, which holds those of the rest; nothing, and leaves nothing, when `go_on`, which is told
// the records written so far, says no.
std::optional<std::uint64_t> write_shard(RecordSource& source, const ShardPlan& plan,
                                         std::int64_t shard, const std::filesystem::path& directory,
                                         const std::function<bool(std::int64_t)>& go_on);

// The checksum of the header of a shard that is there whole, as write_shard() returned it; nothing
// where none is, or another. Its size and header are compared; its records are not read.
std::optional<std::uint64_t> find_shard(const ShardPlan& plan, std::int64_t shard,
                                        const std::filesystem::path& directory);

// Makes the folder of shards a data set: manifest.textproto. `header_sums`: one a shard.
void write_shard_manifest(const ShardPlan& plan, std::span<const std::uint64_t> header_sums,
                          const std::filesystem::path& directory);
bool has_shard_manifest(const std::filesystem::path& directory);
// Removes the manifest first, then every shard and what of one was left half-written.
void remove_shards(const std::filesystem::path& directory);
bool has_shards(const std::filesystem::path& directory);  // any file named like one

// All of the above in one go. Refuses a directory that holds a manifest.
void write_shards(const Dataset& dataset, const std::filesystem::path& directory,
                  const ShardOptions& options);

// Maps every shard of the manifest; headers, sizes and counts are checked, contents are not.
std::unique_ptr<Dataset> open_shards(const std::filesystem::path& directory);

// Reads the shards back, byte for byte.
class ShardVerifier {
 public:
  explicit ShardVerifier(const std::filesystem::path& directory);
  ~ShardVerifier();

  std::int64_t count() const;
  std::int64_t records() const;
  std::int64_t records(std::int64_t shard) const;
  // Compares all checksums. Throws Error(input) naming the file and section. False when `go_on`,
  // asked every 64 MiB, says no.
  bool verify(std::int64_t shard, const std::function<bool()>& go_on) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
// All shards; returns the number of records.
std::int64_t verify_shards(const std::filesystem::path& directory);

struct ShardInfo {
  Shape record_shape;
  DType dtype = DType::u8;
  std::int64_t records = 0;
  std::uint64_t bytes = 0;
};
ShardInfo inspect_shard(const std::filesystem::path& file);
bool is_shard(const std::filesystem::path& file);  // by its magic

}  // namespace peal
