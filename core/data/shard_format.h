// The bytes of shard files and of their manifest, in memory. shard.h says what they hold.
//
// Header, little-endian, 4096 bytes, zeros where nothing is named:
//     0  8 x char  "PEALSHD1"
//     8  u32       format version, 1
//    12  u32       dtype: 0 u8, 1 f32, 2 i32
//    16  u32       rank, 0 to 6
//    24  6 x i64   shape of a record
//    72  u64       records
//    80  3 x {u64 offset, u64 bytes, u64 xxh64}: records, labels, index
//   152  u64       bytes of the whole file
//  4088  u64       xxh64 of bytes 0 to 4087
// Sections begin at multiples of 4096 (records) and 64 (labels, index), with zeros between.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/device/tensor.h"

namespace peal {

inline constexpr std::size_t kShardHeaderBytes = 4096;
inline constexpr const char* kShardManifestName = "manifest.textproto";
inline constexpr std::array<const char*, 3> kShardSections = {"records", "labels", "index"};

struct ShardSection {
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t xxh64 = 0;

  friend bool operator==(const ShardSection&, const ShardSection&) = default;
};

struct ShardHeader {
  DType dtype = DType::u8;
  Shape record_shape;
  std::int64_t records = 0;
  std::array<ShardSection, 3> sections;  // as in kShardSections
  std::uint64_t file_bytes = 0;

  std::uint64_t record_bytes() const;
};

// Where the sections of so many records lie (checksums are left 0). Throws Error(input) with
// `where` when the sizes do not fit in 63 bits.
ShardHeader shard_layout(const Shape& record_shape, DType dtype, std::int64_t records,
                         const std::string& where);

std::array<std::byte, kShardHeaderBytes> format_shard_header(const ShardHeader& header);

// `file` is the whole shard. Checks the header wholly, and the file's size against it.
ShardHeader parse_shard_header(std::span<const std::byte> file, const std::string& where);

// Asked every so many bytes of a long check; false ends it.
using GoOn = std::function<bool()>;

// Compares the checksum of one section with the header's. False when `go_on` said no.
bool check_shard_section(std::span<const std::byte> file, const ShardHeader& header,
                         std::size_t section, const std::string& where, const GoOn& go_on = {});
// All sections, the offsets in the index, and the zeros between sections.
bool check_shard_contents(std::span<const std::byte> file, const ShardHeader& header,
                          const std::string& where, const GoOn& go_on = {});

// manifest.textproto, in Protobuf's text format:
//   format: 1
//   records: 60000
//   record_shape: [28, 28]
//   dtype: "u8"
//   shard { file: "shard-00000-of-00008.peal" records: 7500 bytes: 6009856 xxh64: "..." }
struct ShardManifest {
  struct Shard {
    std::string file;  // a name in the manifest's folder
    std::int64_t records = 0;
    std::uint64_t bytes = 0;
    std::uint64_t xxh64 = 0;  // of the header, which holds the checksums of the rest
  };
  std::int64_t records = 0;
  Shape record_shape;
  DType dtype = DType::u8;
  std::vector<Shard> shards;
};
// The first record of each shard and, last, the number of records.
std::vector<std::int64_t> shard_starts_of(const ShardManifest& manifest);

std::string format_shard_manifest(const ShardManifest& manifest);
// Strict: every field once, none unknown. Throws Error(input) whose place is `where`:line.
ShardManifest parse_shard_manifest(std::string_view text, const std::string& where);

}  // namespace peal
