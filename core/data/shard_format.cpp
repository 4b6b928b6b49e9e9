#include "core/data/shard_format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/data/records.h"

namespace peal {
namespace {

static_assert(std::endian::native == std::endian::little, "shard files are mapped as they are");

constexpr char kMagic[8] = {'P', 'E', 'A', 'L', 'S', 'H', 'D', '1'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kDims = 24, kRecords = 72, kSections = 80, kFileBytes = 152, kUsed = 160;
constexpr std::size_t kChecksum = kShardHeaderBytes - 8;

constexpr std::array<DType, 3> kDTypes = {DType::u8, DType::f32, DType::i32};  // by code

template <typename T>
T load(std::span<const std::byte> bytes, std::size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

template <typename T>
void store(std::span<std::byte> bytes, std::size_t offset, T value) {
  std::memcpy(bytes.data() + offset, &value, sizeof value);
}

std::uint64_t round_up(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

Shape parse_shape(std::span<const std::byte> file, const std::string& where) {
  const auto rank = load<std::uint32_t>(file, 16);
  if (rank > Shape::kMaxRank) {
    fail_input(where, "header, offset 16: rank ", rank, "; allowed are 0 to ", Shape::kMaxRank);
  }
  Shape shape;
  for (std::size_t i = 0; i < rank; ++i) {
    const auto dim = load<std::int64_t>(file, kDims + 8 * i);
    if (dim < 1) {
      fail_input(where, "header, offset ", kDims + 8 * i, ": dimension ", dim,
                 "; allowed are 1 and above");
    }
    shape.push_back(dim);
  }
  return shape;
}

void check_start(std::span<const std::byte> file, const std::string& where) {
  if (file.size() < sizeof kMagic || std::memcmp(file.data(), kMagic, sizeof kMagic) != 0) {
    fail_input(where, "does not begin with PEALSHD1: this is no shard file");
  }
  if (file.size() < kShardHeaderBytes) {
    fail_input(where, "ends at offset ", file.size(), ", inside the header of ", kShardHeaderBytes,
               " bytes");
  }
  const auto stored = load<std::uint64_t>(file, kChecksum);
  const std::uint64_t computed = xxh64(file.data(), kChecksum);
  if (stored != computed) {
    fail_input(where, "the header is corrupt: its checksum is ", hex(computed), ", stored is ",
               hex(stored));
  }
  const auto version = load<std::uint32_t>(file, 8);
  if (version != kVersion) {
    fail_input(where, "header, offset 8: format version ", version, "; this program reads ",
               kVersion);
  }
}

void check_zeros(std::span<const std::byte> file, std::uint64_t begin, std::uint64_t end,
                 const std::string& where) {
  for (std::uint64_t i = begin; i < end; ++i) {
    if (file[i] != std::byte{0}) {
      fail_input(where, "padding, offset ", i, ": holds a byte other than 0: the file is corrupt");
    }
  }
}

void check_index(std::span<const std::byte> file, const ShardHeader& header,
                 const std::string& where) {
  const std::uint64_t record_bytes = header.record_bytes();
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(header.records); ++i) {
    const std::uint64_t at = header.sections[2].offset + 8 * i;
    const std::uint64_t expected = header.sections[0].offset + i * record_bytes;
    const auto found = load<std::uint64_t>(file, at);
    if (found != expected) {
      fail_input(where, "section index, offset ", at, ": record ", i, " at ", found, "; expected ",
                 expected);
    }
  }
}

}  // namespace

std::uint64_t ShardHeader::record_bytes() const {
  return static_cast<std::uint64_t>(record_shape.numel()) * size_of(dtype);
}

ShardHeader shard_layout(const Shape& record_shape, DType dtype, std::int64_t records,
                         const std::string& where) {
  constexpr std::uint64_t kMost = std::uint64_t{1} << 62;
  std::vector<std::int64_t> dims = record_shape.vector();
  dims.push_back(records);
  const auto bytes = checked_bytes(dims, size_of(dtype));
  if (!bytes || *bytes > kMost || static_cast<std::uint64_t>(records) > kMost / 16) {
    fail_input(where, records, " records of shape ", record_shape,
               " announce more bytes than any file can hold");
  }
  const auto count = static_cast<std::uint64_t>(records);
  ShardHeader header;
  header.dtype = dtype;
  header.record_shape = record_shape;
  header.records = records;
  std::uint64_t end = kShardHeaderBytes;
  const std::array<std::uint64_t, 3> sizes = {*bytes, count * 4, count * 8};
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    header.sections[i] = {round_up(end, 64), sizes[i], 0};
    end = header.sections[i].offset + sizes[i];
  }
  header.file_bytes = end;
  return header;
}

std::array<std::byte, kShardHeaderBytes> format_shard_header(const ShardHeader& header) {
  std::array<std::byte, kShardHeaderBytes> bytes{};
  std::memcpy(bytes.data(), kMagic, sizeof kMagic);
  store(bytes, 8, kVersion);
  const auto code = std::find(kDTypes.begin(), kDTypes.end(), header.dtype) - kDTypes.begin();
  store(bytes, 12, static_cast<std::uint32_t>(code));
  store(bytes, 16, static_cast<std::uint32_t>(header.record_shape.rank()));
  for (int i = 0; i < header.record_shape.rank(); ++i) {
    store(bytes, kDims + 8 * static_cast<std::size_t>(i), header.record_shape[i]);
  }
  store(bytes, kRecords, header.records);
  for (std::size_t i = 0; i < header.sections.size(); ++i) {
    store(bytes, kSections + 24 * i, header.sections[i].offset);
    store(bytes, kSections + 24 * i + 8, header.sections[i].bytes);
    store(bytes, kSections + 24 * i + 16, header.sections[i].xxh64);
  }
  store(bytes, kFileBytes, header.file_bytes);
  store(bytes, kChecksum, xxh64(bytes.data(), kChecksum));
  return bytes;
}

ShardHeader parse_shard_header(std::span<const std::byte> file, const std::string& where) {
  check_start(file, where);
  const auto dtype = load<std::uint32_t>(file, 12);
  if (dtype >= kDTypes.size()) {
    fail_input(where, "header, offset 12: dtype ", dtype,
               "; allowed are 0 (u8), 1 (f32) and 2 (i32)");
  }
  const auto records = load<std::int64_t>(file, kRecords);
  if (records < 1) {
    fail_input(where, "header, offset 72: ", records, " records; allowed are 1 and above");
  }
  ShardHeader header = shard_layout(parse_shape(file, where), kDTypes[dtype], records, where);
  for (std::size_t i = 0; i < header.sections.size(); ++i) {
    ShardSection found;
    found.offset = load<std::uint64_t>(file, kSections + 24 * i);
    found.bytes = load<std::uint64_t>(file, kSections + 24 * i + 8);
    if (!(found == header.sections[i])) {
      fail_input(where, "header, offset ", kSections + 24 * i, ": section ", kShardSections[i],
                 " of ", found.bytes, " bytes at ", found.offset, "; expected ",
                 header.sections[i].bytes, " at ", header.sections[i].offset);
    }
    header.sections[i].xxh64 = load<std::uint64_t>(file, kSections + 24 * i + 16);
  }
  const auto announced = load<std::uint64_t>(file, kFileBytes);
  if (announced != header.file_bytes || file.size() != header.file_bytes) {
    fail_input(where, "holds ", file.size(), " bytes; its header announces ", announced, ", its ",
               header.records, " records need ", header.file_bytes);
  }
  return header;
}

bool check_shard_section(std::span<const std::byte> file, const ShardHeader& header,
                         std::size_t section, const std::string& where, const GoOn& go_on) {
  constexpr std::uint64_t kPiece = std::uint64_t{64} << 20;
  const ShardSection& s = header.sections[section];
  Hasher hasher;
  for (std::uint64_t done = 0; done < s.bytes; done += kPiece) {
    if (go_on && !go_on()) return false;
    hasher.update(file.data() + s.offset + done, std::min(kPiece, s.bytes - done));
  }
  const std::uint64_t computed = hasher.digest();
  if (computed == s.xxh64) return true;
  fail_input(where, "section ", kShardSections[section], " (", s.bytes, " bytes at offset ",
             s.offset, ") is corrupt: its checksum is ", hex(computed), ", stored is ",
             hex(s.xxh64));
}

bool check_shard_contents(std::span<const std::byte> file, const ShardHeader& header,
                          const std::string& where, const GoOn& go_on) {
  check_zeros(file, kUsed, kChecksum, where);
  std::uint64_t end = kShardHeaderBytes;
  for (std::size_t i = 0; i < header.sections.size(); ++i) {
    check_zeros(file, end, header.sections[i].offset, where);
    if (!check_shard_section(file, header, i, where, go_on)) return false;
    end = header.sections[i].offset + header.sections[i].bytes;
  }
  check_index(file, header, where);
  return true;
}

}  // namespace peal
