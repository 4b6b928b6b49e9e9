// The manifest of a folder of shards. A small text of fixed form: this folder stands below the
// Protobuf library in the table of levels, so it is read here by hand.
#include <algorithm>
#include <charconv>
#include <limits>
#include <set>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/data/shard_format.h"

namespace peal {
namespace {

class ManifestReader {
 public:
  ManifestReader(std::string_view text, const std::string& where) : rest_(text), where_(where) {}

  bool at_end() {
    skip_space();
    return rest_.empty();
  }

  bool take(char c) {
    skip_space();
    if (rest_.empty() || rest_.front() != c) return false;
    rest_.remove_prefix(1);
    return true;
  }

  void expect(char c) {
    if (!take(c)) fail("expected '", c, "'; found ", found());
  }

  std::string name() {
    skip_space();
    std::size_t n = 0;
    while (n < rest_.size() && is_name(rest_[n])) ++n;
    if (n == 0) fail("expected a field's name; found ", found());
    return std::string(cut(n));
  }

  std::uint64_t number() {
    skip_space();
    std::uint64_t value = 0;
    const auto [end, code] = std::from_chars(rest_.data(), rest_.data() + rest_.size(), value);
    if (code != std::errc() || value > std::numeric_limits<std::int64_t>::max()) {
      fail("expected a whole number from 0 to 2^63 - 1; found ", found());
    }
    cut(static_cast<std::size_t>(end - rest_.data()));
    return value;
  }

  std::string quoted() {
    expect('"');
    const std::size_t n = rest_.find_first_of("\"\n\\");
    if (n == std::string_view::npos || rest_[n] != '"') {
      fail("expected text in quotes, on one line, without backslashes");
    }
    const std::string text(cut(n));
    cut(1);
    return text;
  }

  template <typename... Parts>
  [[noreturn]] void fail(const Parts&... parts) const {
    fail_input(cat(where_, ":", line_), parts...);
  }

 private:
  static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  }

  std::string_view cut(std::size_t n) {
    const std::string_view text = rest_.substr(0, n);
    rest_.remove_prefix(n);
    return text;
  }

  void skip_space() {
    while (!rest_.empty()) {
      if (rest_.front() == '#') {
        cut(std::min(rest_.find('\n'), rest_.size()));
        continue;
      }
      if (std::string_view(" \t\r\n").find(rest_.front()) == std::string_view::npos) return;
      if (rest_.front() == '\n') ++line_;
      cut(1);
    }
  }

  std::string found() const {
    if (rest_.empty()) return "the end of the file";
    std::string text = "\"";
    for (const char c : rest_.substr(0, std::min<std::size_t>(rest_.find('\n'), 20))) {
      text += c >= 0x20 && c < 0x7f ? c : '?';
    }
    return text + "\"";
  }

  std::string_view rest_;
  const std::string& where_;
  int line_ = 1;
};

// The fields of one message: every one exactly once, unless `repeated`.
class FieldSet {
 public:
  FieldSet(ManifestReader& reader, std::vector<std::string> allowed)
      : reader_(reader), allowed_(std::move(allowed)) {}

  std::string next(const std::string& repeated = "") {
    const std::string name = reader_.name();
    if (std::find(allowed_.begin(), allowed_.end(), name) == allowed_.end()) {
      reader_.fail("unknown field ", name, "; allowed are ", join(allowed_));
    }
    if (!seen_.insert(name).second && name != repeated) reader_.fail("field ", name, " twice");
    return name;
  }

  void check_complete() const {
    for (const std::string& name : allowed_) {
      if (!seen_.contains(name)) reader_.fail("field ", name, " is missing");
    }
  }

 private:
  ManifestReader& reader_;
  std::vector<std::string> allowed_;
  std::set<std::string> seen_;
};

std::uint64_t parse_hex(ManifestReader& reader) {
  const std::string text = reader.quoted();
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, code] = std::from_chars(text.data(), end, value, 16);
  if (text.size() != 16 || code != std::errc() || stop != end) {
    reader.fail("xxh64 is 16 hexadecimal digits");
  }
  return value;
}

std::string parse_file_name(ManifestReader& reader) {
  std::string name = reader.quoted();
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos ||
      name.find('\0') != std::string::npos) {
    reader.fail("file is a name in the manifest's own folder");
  }
  return name;
}

ShardManifest::Shard parse_shard(ManifestReader& reader) {
  ShardManifest::Shard shard;
  FieldSet fields(reader, {"file", "records", "bytes", "xxh64"});
  reader.expect('{');
  while (!reader.take('}')) {
    const std::string field = fields.next();
    reader.expect(':');
    if (field == "file") shard.file = parse_file_name(reader);
    if (field == "records") shard.records = static_cast<std::int64_t>(reader.number());
    if (field == "bytes") shard.bytes = reader.number();
    if (field == "xxh64") shard.xxh64 = parse_hex(reader);
  }
  fields.check_complete();
  return shard;
}

Shape parse_shape(ManifestReader& reader) {
  Shape shape;
  reader.expect('[');
  if (reader.take(']')) return shape;
  do {
    const std::uint64_t dim = reader.number();
    if (dim == 0 || shape.rank() == Shape::kMaxRank) {
      reader.fail("record_shape is up to ", Shape::kMaxRank, " numbers above 0");
    }
    shape.push_back(static_cast<std::int64_t>(dim));
  } while (reader.take(','));
  reader.expect(']');
  return shape;
}

DType parse_dtype(ManifestReader& reader) {
  const std::string name = reader.quoted();
  for (const DType dtype : {DType::u8, DType::f32, DType::i32}) {
    if (name == name_of(dtype)) return dtype;
  }
  reader.fail("dtype is \"u8\", \"f32\" or \"i32\"");
}

void check_shards(const ShardManifest& manifest, const ManifestReader& reader) {
  std::int64_t left = manifest.records;
  std::set<std::string> files;
  for (const ShardManifest::Shard& shard : manifest.shards) {
    if (!files.insert(shard.file).second) reader.fail("shard ", shard.file, " twice");
    if (shard.records < 1) reader.fail("shard ", shard.file, " holds no records");
    if (shard.records > left) {
      reader.fail("the shards hold more than the ", manifest.records, " records announced");
    }
    left -= shard.records;
  }
  if (left != 0 || manifest.records == 0) {
    reader.fail("the shards hold ", manifest.records - left, " records; announced are ",
                manifest.records, ", and at least 1 is needed");
  }
}

}  // namespace

std::vector<std::int64_t> shard_starts_of(const ShardManifest& manifest) {
  std::vector<std::int64_t> starts = {0};
  for (const ShardManifest::Shard& shard : manifest.shards) {
    starts.push_back(starts.back() + shard.records);
  }
  return starts;
}

std::string format_shard_manifest(const ShardManifest& manifest) {
  std::vector<std::string> dims;
  for (const std::int64_t dim : manifest.record_shape) dims.push_back(std::to_string(dim));
  std::string text = cat("format: 1\nrecords: ", manifest.records, "\nrecord_shape: [", join(dims),
                         "]\ndtype: \"", name_of(manifest.dtype), "\"\n");
  for (const ShardManifest::Shard& shard : manifest.shards) {
    text += cat("shard { file: \"", shard.file, "\" records: ", shard.records,
                " bytes: ", shard.bytes, " xxh64: \"", hex(shard.xxh64), "\" }\n");
  }
  return text;
}

ShardManifest parse_shard_manifest(std::string_view text, const std::string& where) {
  ManifestReader reader(text, where);
  ShardManifest manifest;
  FieldSet fields(reader, {"format", "records", "record_shape", "dtype", "shard"});
  while (!reader.at_end()) {
    const std::string field = fields.next("shard");
    if (field == "shard") {
      manifest.shards.push_back(parse_shard(reader));
      continue;
    }
    reader.expect(':');
    if (field == "format") {
      const std::uint64_t format = reader.number();
      if (format != 1) reader.fail("format ", format, "; this program reads 1");
    }
    if (field == "records") manifest.records = static_cast<std::int64_t>(reader.number());
    if (field == "record_shape") manifest.record_shape = parse_shape(reader);
    if (field == "dtype") manifest.dtype = parse_dtype(reader);
  }
  fields.check_complete();
  check_shards(manifest, reader);
  return manifest;
}

}  // namespace peal
