#include "core/data/shard.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/data/shard_format.h"
#include "core/data/shard_part.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMostShards = 100000;  // five digits in a name

bool is_there(const fs::path& path) {
  std::error_code code;
  return fs::exists(path, code);
}

// The most records whose shard is no larger than `bytes`.
std::int64_t records_that_fit(const Dataset& dataset, std::int64_t bytes) {
  const auto size = [&](std::int64_t n) {
    return shard_layout(dataset.record_shape(), dataset.record_dtype(), n, dataset.name())
        .file_bytes;
  };
  const auto limit = static_cast<std::uint64_t>(bytes);
  if (size(1) > limit) {
    fail_input("bytes per shard", bytes, "; one record of ", dataset.name(), " needs ", size(1));
  }
  std::int64_t low = 1, high = dataset.size();
  while (low < high) {
    const std::int64_t middle = low + (high - low + 1) / 2;
    if (size(middle) <= limit) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

std::int64_t shard_count(const Dataset& dataset, const ShardOptions& options) {
  if ((options.count > 0) == (options.bytes_per_shard > 0)) {
    fail_input("shards", "count ", options.count, " and bytes per shard ", options.bytes_per_shard,
               "; exactly one of the two must be above 0");
  }
  const std::int64_t records = dataset.size();
  std::int64_t count = options.count;
  if (count == 0) {
    const std::int64_t most = records_that_fit(dataset, options.bytes_per_shard);
    count = (records + most - 1) / most;
  }
  const std::int64_t allowed = std::min(records, kMostShards);
  if (count > allowed) {
    fail_input("shards", count, " shards for the ", records, " records of ", dataset.name(),
               "; allowed are 1 to ", allowed);
  }
  return count;
}

std::string shard_name(std::int64_t index, std::int64_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "shard-%05lld-of-%05lld.peal", static_cast<long long>(index),
                static_cast<long long>(count));
  return text;
}

// One shard: header last, because it holds the checksums.
class ShardWriter {
 public:
  ShardWriter(const Dataset& dataset, const fs::path& path, std::int64_t records)
      : dataset_(dataset),
        file_(path),
        header_(
            shard_layout(dataset.record_shape(), dataset.record_dtype(), records, path.string())) {}

  // Returns the checksum of the header.
  std::uint64_t write(std::int64_t first) {
    const std::vector<std::byte> room(kShardHeaderBytes);
    file_.write(room.data(), room.size());
    write_section(0, header_.record_bytes(),
                  [&](std::int64_t i) { return dataset_.record(first + i); });
    float label = 0;
    write_section(1, sizeof label, [&](std::int64_t i) {
      label = dataset_.label(first + i);
      return static_cast<const void*>(&label);
    });
    std::uint64_t offset = 0;
    write_section(2, sizeof offset, [&](std::int64_t i) {
      offset = header_.sections[0].offset + static_cast<std::uint64_t>(i) * header_.record_bytes();
      return static_cast<const void*>(&offset);
    });
    const auto bytes = format_shard_header(header_);
    file_.write_at(0, bytes.data(), bytes.size());
    file_.commit();
    return xxh64(bytes.data(), bytes.size());
  }

  std::uint64_t file_bytes() const { return header_.file_bytes; }

 private:
  template <typename Element>
  void write_section(std::size_t section, std::size_t bytes, const Element& element) {
    constexpr std::size_t kBlock = std::size_t{1} << 20;
    ShardSection& s = header_.sections[section];
    std::vector<std::byte> block(s.offset - file_.position());  // the zeros before the section
    file_.write(block.data(), block.size());
    block.clear();
    Hasher hasher;
    for (std::int64_t i = 0; i < header_.records; ++i) {
      const auto* from = static_cast<const std::byte*>(element(i));
      block.insert(block.end(), from, from + bytes);
      if (block.size() < kBlock && i + 1 < header_.records) continue;
      hasher.update(block.data(), block.size());
      file_.write(block.data(), block.size());
      block.clear();
    }
    s.xxh64 = hasher.digest();
  }

  const Dataset& dataset_;
  FileWriter file_;
  ShardHeader header_;
};

class ShardDataset final : public Dataset {
 public:
  ShardDataset(std::string name, ShardManifest manifest, std::vector<ShardPart> parts)
      : name_(std::move(name)),
        manifest_(std::move(manifest)),
        parts_(std::move(parts)),
        starts_(shard_starts_of(manifest_)),
        record_bytes_(parts_[0].header.record_bytes()) {}

  std::int64_t size() const override { return manifest_.records; }
  const Shape& record_shape() const override { return manifest_.record_shape; }
  DType record_dtype() const override { return manifest_.dtype; }
  const std::string& name() const override { return name_; }
  std::span<const std::int64_t> shard_starts() const override { return starts_; }

  const void* record(std::int64_t index) const override {
    const ShardPart& part = find(index);
    return part.map.data() + part.header.sections[0].offset +
           static_cast<std::uint64_t>(index - part.first) * record_bytes_;
  }

  float label(std::int64_t index) const override {
    const ShardPart& part = find(index);
    float value;
    std::memcpy(&value,
                part.map.data() + part.header.sections[1].offset +
                    static_cast<std::uint64_t>(index - part.first) * sizeof value,
                sizeof value);
    return value;
  }

 private:
  const ShardPart& find(std::int64_t index) const {
    const auto after =
        std::upper_bound(parts_.begin(), parts_.end(), index,
                         [](std::int64_t i, const ShardPart& part) { return i < part.first; });
    return *(after - 1);
  }

  std::string name_;
  ShardManifest manifest_;
  std::vector<ShardPart> parts_;
  std::vector<std::int64_t> starts_;
  std::uint64_t record_bytes_;
};

void check_labels(const ShardDataset& dataset) {
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    if (std::isfinite(dataset.label(i))) continue;
    fail_input(dataset.name(), "record ", i, " has label ", dataset.label(i),
               "; allowed are finite numbers");
  }
}

ShardManifest read_manifest(const fs::path& directory) {
  const fs::path path = directory / kShardManifestName;
  if (!is_there(path)) {
    fail_input(path.string(), "is missing: the folder holds no complete set of shards");
  }
  return parse_shard_manifest(read_file(path), path.string());
}

ShardPart open_part(const fs::path& directory, const ShardManifest& manifest,
                    const ShardManifest::Shard& shard, std::int64_t first) {
  const fs::path path = directory / shard.file;
  return open_shard_part(path, path.string(), manifest, shard, first);
}

}  // namespace

void write_shards(const Dataset& dataset, const fs::path& directory, const ShardOptions& options) {
  const std::int64_t count = shard_count(dataset, options);
  make_folders(directory);
  if (is_there(directory / kShardManifestName)) {
    fail_input((directory / kShardManifestName).string(),
               "exists; shards are written to a folder that holds none");
  }
  ShardManifest manifest;
  manifest.records = dataset.size();
  manifest.record_shape = dataset.record_shape();
  manifest.dtype = dataset.record_dtype();
  std::int64_t first = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t records = dataset.size() / count + (i < dataset.size() % count ? 1 : 0);
    const std::string name = shard_name(i, count);
    ShardWriter writer(dataset, directory / name, records);
    const std::uint64_t sum = writer.write(first);
    manifest.shards.push_back({name, records, writer.file_bytes(), sum});
    first += records;
    if (options.progress) options.progress(first, dataset.size());
  }
  write_file_atomically(directory / kShardManifestName, format_shard_manifest(manifest));
}

std::unique_ptr<Dataset> open_shards(const fs::path& directory) {
  ShardManifest manifest = read_manifest(directory);
  std::vector<ShardPart> parts;
  std::int64_t first = 0;
  for (const ShardManifest::Shard& shard : manifest.shards) {
    parts.push_back(open_part(directory, manifest, shard, first));
    check_shard_section(parts.back().bytes(), parts.back().header, 1, parts.back().name);
    first += shard.records;
  }
  auto dataset = std::make_unique<ShardDataset>((directory / kShardManifestName).string(),
                                                std::move(manifest), std::move(parts));
  check_labels(*dataset);
  return dataset;
}

std::int64_t verify_shards(const fs::path& directory,
                           const std::function<void(std::int64_t, std::int64_t)>& progress) {
  const ShardManifest manifest = read_manifest(directory);
  std::int64_t done = 0;
  for (const ShardManifest::Shard& shard : manifest.shards) {
    const ShardPart part = open_part(directory, manifest, shard, done);
    check_shard_contents(part.bytes(), part.header, part.name);
    done += shard.records;
    if (progress) progress(done, manifest.records);
  }
  return done;
}

ShardInfo inspect_shard(const fs::path& file) {
  const MappedFile map(file);
  const ShardHeader header = parse_shard_header({map.data(), map.size()}, file.string());
  return {header.record_shape, header.dtype, header.records, header.file_bytes};
}

bool is_shard(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  char magic[8] = {};
  in.read(magic, sizeof magic);
  return in.gcount() == sizeof magic && std::memcmp(magic, "PEALSHD1", sizeof magic) == 0;
}

}  // namespace peal
