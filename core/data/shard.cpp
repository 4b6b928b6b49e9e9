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
  if (!has_shard_manifest(directory)) {
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

struct ShardVerifier::Impl {
  fs::path directory;
  ShardManifest manifest;
};

ShardVerifier::ShardVerifier(const fs::path& directory)
    : impl_(new Impl{directory, read_manifest(directory)}) {}

ShardVerifier::~ShardVerifier() = default;

std::int64_t ShardVerifier::count() const {
  return static_cast<std::int64_t>(impl_->manifest.shards.size());
}

std::int64_t ShardVerifier::records() const {
  return impl_->manifest.records;
}

std::int64_t ShardVerifier::records(std::int64_t shard) const {
  return impl_->manifest.shards[static_cast<std::size_t>(shard)].records;
}

bool ShardVerifier::verify(std::int64_t shard, const std::function<bool()>& go_on) const {
  const ShardManifest& manifest = impl_->manifest;
  const ShardPart part =
      open_part(impl_->directory, manifest, manifest.shards[static_cast<std::size_t>(shard)], 0);
  return check_shard_contents(part.bytes(), part.header, part.name, go_on);
}

std::int64_t verify_shards(const fs::path& directory) {
  const ShardVerifier verifier(directory);
  for (std::int64_t i = 0; i < verifier.count(); ++i) verifier.verify(i, {});
  return verifier.records();
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
