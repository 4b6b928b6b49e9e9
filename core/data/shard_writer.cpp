#include <algorithm>
#include <cstring>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"
#include "core/data/shard.h"
#include "core/data/shard_format.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kMostShards = 100000;  // five digits in a name

// The most records whose shard is no larger than `bytes`.
std::int64_t records_that_fit(const RecordSource& source, std::int64_t records,
                              std::int64_t bytes) {
  const auto size = [&](std::int64_t n) {
    return shard_layout(source.record_shape(), source.record_dtype(), n, source.name()).file_bytes;
  };
  const auto limit = static_cast<std::uint64_t>(bytes);
  if (size(1) > limit) {
    fail_input("bytes per shard", bytes, "; one record of ", source.name(), " needs ", size(1));
  }
  std::int64_t low = 1, high = records;
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

std::int64_t shard_count(const RecordSource& source, std::int64_t records,
                         const ShardOptions& options) {
  if ((options.count > 0) == (options.bytes_per_shard > 0)) {
    fail_input("shards", "count ", options.count, " and bytes per shard ", options.bytes_per_shard,
               "; exactly one of the two must be above 0");
  }
  if (records < 1) fail_input(source.name(), "holds no record that is not skipped");
  std::int64_t count = options.count;
  if (count == 0) {
    const std::int64_t most = records_that_fit(source, records, options.bytes_per_shard);
    count = (records + most - 1) / most;
  }
  const std::int64_t allowed = std::min(records, kMostShards);
  if (count > allowed) {
    fail_input("shards", count, " shards for the ", records, " records of ", source.name(),
               "; allowed are 1 to ", allowed);
  }
  return count;
}

bool is_shard_name(const std::string& name) {
  return name.starts_with("shard-") && (name.ends_with(".peal") || name.ends_with(".peal.tmp"));
}

std::vector<fs::path> shard_files(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(directory, code)) {
    if (is_shard_name(entry.path().filename().string())) files.push_back(entry.path());
  }
  if (code && code != std::errc::no_such_file_or_directory) {
    fail_input(directory.string(), "cannot read the folder: ", code.message());
  }
  return files;
}

void remove_file(const fs::path& path) {
  std::error_code code;
  fs::remove(path, code);
  if (code) fail_input(path.string(), "cannot remove: ", code.message());
}

// Header last, because it holds the checksums.
class ShardWriter {
 public:
  ShardWriter(RecordSource& source, const ShardPlan& plan, std::int64_t shard, const fs::path& path)
      : source_(source),
        plan_(plan),
        first_(plan.first(shard)),
        file_(path),
        header_(
            shard_layout(plan.record_shape(), plan.dtype(), plan.records(shard), path.string())) {}

  std::optional<std::uint64_t> write(const std::function<bool(std::int64_t)>& go_on) {
    const std::vector<std::byte> room(kShardHeaderBytes);
    file_.write(room.data(), room.size());
    const std::size_t bytes = header_.record_bytes();
    const bool all = write_section(0, bytes, [&](std::int64_t i, std::byte* out) {
      if (!go_on(i)) return false;
      source_.read(plan_.source_record(first_ + i), out);
      return true;
    });
    if (!all) return {};
    write_section(1, sizeof(float), [&](std::int64_t i, std::byte* out) {
      const float label = source_.label(plan_.source_record(first_ + i));
      std::memcpy(out, &label, sizeof label);
      return true;
    });
    write_section(2, sizeof(std::uint64_t), [&](std::int64_t i, std::byte* out) {
      const std::uint64_t offset =
          header_.sections[0].offset + static_cast<std::uint64_t>(i) * bytes;
      std::memcpy(out, &offset, sizeof offset);
      return true;
    });
    const auto header = format_shard_header(header_);
    file_.write_at(0, header.data(), header.size());
    file_.commit();
    return xxh64(header.data(), header.size());
  }

 private:
  // `element` writes one and returns whether to go on.
  template <typename Element>
  bool write_section(std::size_t section, std::size_t bytes, const Element& element) {
    constexpr std::size_t kBlock = std::size_t{1} << 20;
    ShardSection& s = header_.sections[section];
    std::vector<std::byte> block(s.offset - file_.position());  // the zeros before the section
    file_.write(block.data(), block.size());
    block.resize(std::max(kBlock / bytes, std::size_t{1}) * bytes);
    Hasher hasher;
    std::size_t filled = 0;
    for (std::int64_t i = 0; i < header_.records; ++i) {
      if (!element(i, block.data() + filled)) return false;
      filled += bytes;
      if (filled < block.size() && i + 1 < header_.records) continue;
      hasher.update(block.data(), filled);
      file_.write(block.data(), filled);
      filled = 0;
    }
    s.xxh64 = hasher.digest();
    return true;
  }

  RecordSource& source_;
  const ShardPlan& plan_;
  std::int64_t first_;
  FileWriter file_;
  ShardHeader header_;
};

}  // namespace

ShardPlan::ShardPlan(const RecordSource& source, std::int64_t records,
                     std::vector<std::int64_t> skipped, const ShardOptions& options)
    : shape_(source.record_shape()),
      dtype_(source.record_dtype()),
      records_(records - static_cast<std::int64_t>(skipped.size())),
      skipped_(std::move(skipped)) {
  count_ = shard_count(source, records_, options);
}

std::int64_t ShardPlan::records(std::int64_t shard) const {
  return records_ / count_ + (shard < records_ % count_ ? 1 : 0);
}

std::int64_t ShardPlan::first(std::int64_t shard) const {
  return records_ / count_ * shard + std::min(shard, records_ % count_);
}

std::string ShardPlan::file(std::int64_t shard) const {
  char text[64];
  std::snprintf(text, sizeof text, "shard-%05lld-of-%05lld.peal", static_cast<long long>(shard),
                static_cast<long long>(count_));
  return text;
}

// As many of those skipped stand before it as have a number not above `record` without the ones
// before them.
std::int64_t ShardPlan::source_record(std::int64_t record) const {
  std::size_t low = 0, high = skipped_.size();
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (skipped_[middle] - static_cast<std::int64_t>(middle) <= record) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return record + static_cast<std::int64_t>(low);
}

std::optional<std::uint64_t> write_shard(RecordSource& source, const ShardPlan& plan,
                                         std::int64_t shard, const fs::path& directory,
                                         const std::function<bool(std::int64_t)>& go_on) {
  return ShardWriter(source, plan, shard, directory / plan.file(shard)).write(go_on);
}

std::optional<std::uint64_t> find_shard(const ShardPlan& plan, std::int64_t shard,
                                        const fs::path& directory) {
  const fs::path path = directory / plan.file(shard);
  std::error_code code;
  if (!fs::is_regular_file(path, code)) return {};
  const MappedFile map(path);
  try {
    const ShardHeader header = parse_shard_header({map.data(), map.size()}, path.string());
    const bool same = header.record_shape == plan.record_shape() && header.dtype == plan.dtype() &&
                      header.records == plan.records(shard);
    if (same) return xxh64(map.data(), kShardHeaderBytes);
  } catch (const Error&) {
    // Not whole: it is written again.
  }
  return {};
}

void write_shard_manifest(const ShardPlan& plan, std::span<const std::uint64_t> header_sums,
                          const fs::path& directory) {
  ShardManifest manifest;
  manifest.records = plan.records();
  manifest.record_shape = plan.record_shape();
  manifest.dtype = plan.dtype();
  for (std::int64_t i = 0; i < plan.count(); ++i) {
    const std::string file = plan.file(i);
    const std::int64_t records = plan.records(i);
    const auto bytes = shard_layout(plan.record_shape(), plan.dtype(), records, file).file_bytes;
    manifest.shards.push_back({file, records, bytes, header_sums[static_cast<std::size_t>(i)]});
  }
  write_file_atomically(directory / kShardManifestName, format_shard_manifest(manifest));
}

bool has_shard_manifest(const fs::path& directory) {
  std::error_code code;
  return fs::exists(directory / kShardManifestName, code);
}

void remove_shards(const fs::path& directory) {
  remove_file(directory / kShardManifestName);
  for (const fs::path& file : shard_files(directory)) remove_file(file);
}

bool has_shards(const fs::path& directory) {
  return !shard_files(directory).empty();
}

void write_shards(const Dataset& dataset, const fs::path& directory, const ShardOptions& options) {
  // Not owned.
  const std::unique_ptr<RecordSource> source =
      dataset_source({std::shared_ptr<const void>(), &dataset}, {});
  const ShardPlan plan(*source, source->size(), {}, options);
  make_folders(directory);
  if (has_shard_manifest(directory)) {
    fail_input((directory / kShardManifestName).string(),
               "exists; shards are written to a folder that holds none");
  }
  std::vector<std::uint64_t> sums;
  for (std::int64_t i = 0; i < plan.count(); ++i) {
    sums.push_back(*write_shard(*source, plan, i, directory, [](std::int64_t) { return true; }));
  }
  write_shard_manifest(plan, sums, directory);
}

}  // namespace peal
