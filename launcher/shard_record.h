// sharding.json beside the shards: what they are made of, so that the same command goes on where
// it was stopped, and another one is told apart.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace peal {

struct SkippedRecord {
  std::int64_t record = 0;  // of the source
  std::string why;
};

struct ShardRecord {
  std::string source;  // as a job writes it, defaults included
  std::int64_t count = 0, bytes_per_shard = 0;
  std::int64_t records = 0;            // of the source, those skipped included
  std::uint64_t files = 0;             // fingerprint_files
  std::vector<SkippedRecord> skipped;  // ascending
};

std::string format_shard_record(const ShardRecord& record);
// Throws Error(input) that begins with `where` for anything that format_shard_record did not write.
ShardRecord parse_shard_record(const std::string& text, const std::string& where);

// The text in `directory`, or nothing.
std::optional<std::string> read_shard_record(const std::filesystem::path& directory);
void write_shard_record(const ShardRecord& record, const std::filesystem::path& directory);
std::filesystem::path shard_record_path(const std::filesystem::path& directory);

// Throws Error(input) that says what is another: source, number or size of shards, its files.
void check_same_sharding(const ShardRecord& there, const ShardRecord& asked,
                         const std::string& where);

}  // namespace peal
