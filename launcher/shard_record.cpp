#include "launcher/shard_record.h"

#include <nlohmann/json.hpp>

#include "core/base/checksum.h"
#include "core/base/error.h"
#include "core/base/file.h"

namespace peal {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int kFormat = 1;

}  // namespace

std::string format_shard_record(const ShardRecord& record) {
  OrderedJson skipped = OrderedJson::array();
  for (const SkippedRecord& s : record.skipped) {
    skipped.push_back({{"record", s.record}, {"why", s.why}});
  }
  const OrderedJson json = {{"format", kFormat},
                            {"source", record.source},
                            {"count", record.count},
                            {"bytes_per_shard", record.bytes_per_shard},
                            {"records", record.records},
                            {"files", hex(record.files)},
                            {"skipped", std::move(skipped)}};
  // File names need not be UTF-8.
  return json.dump(1, ' ', false, OrderedJson::error_handler_t::replace) + "\n";
}

ShardRecord parse_shard_record(const std::string& text, const std::string& where) {
  try {
    const OrderedJson json = OrderedJson::parse(text);
    if (const auto format = json.at("format").get<std::int64_t>(); format != kFormat) {
      fail_input(where, "format ", format, "; this program reads ", kFormat);
    }
    ShardRecord record{.source = json.at("source"),
                       .count = json.at("count"),
                       .bytes_per_shard = json.at("bytes_per_shard"),
                       .records = json.at("records")};
    record.files = std::stoull(json.at("files").get<std::string>(), nullptr, 16);
    std::int64_t before = -1;
    for (const OrderedJson& s : json.at("skipped")) {
      record.skipped.push_back({s.at("record"), s.at("why")});
      const std::int64_t skipped = record.skipped.back().record;
      if (skipped <= before || skipped >= record.records) {
        fail_input(where, "skipped record ", skipped, " of ", record.records,
                   "; allowed are ascending numbers below");
      }
      before = skipped;
    }
    return record;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& error) {
    fail_input(where, "is corrupt (", error.what(), "); --fresh starts over");
  }
}

std::filesystem::path shard_record_path(const std::filesystem::path& directory) {
  return directory / "sharding.json";
}

std::optional<std::string> read_shard_record(const std::filesystem::path& directory) {
  const std::filesystem::path path = shard_record_path(directory);
  std::error_code code;
  if (!std::filesystem::exists(path, code)) return {};
  return read_file(path);
}

void write_shard_record(const ShardRecord& record, const std::filesystem::path& directory) {
  write_file_atomically(shard_record_path(directory), format_shard_record(record));
}

void check_same_sharding(const ShardRecord& there, const ShardRecord& asked,
                         const std::string& where) {
  const char* remedy = "Give the same command, another --out, or --fresh to start over";
  if (there.count != asked.count || there.bytes_per_shard != asked.bytes_per_shard) {
    const auto cut = [](const ShardRecord& r) {
      return r.count > 0 ? cat("--count ", r.count) : cat("--size ", r.bytes_per_shard);
    };
    fail_input(where, "the shards there were cut with ", cut(there), ", now asked is ", cut(asked),
               ". ", remedy);
  }
  if (there.source != asked.source) {
    fail_input(where, "the shards there are of another source or of other settings:\n",
               there.source, "now asked is\n", asked.source, remedy);
  }
  if (there.records != asked.records || there.files != asked.files) {
    fail_input(where, "the source has changed since (", there.records, " records then, ",
               asked.records, " now",
               there.records == asked.records ? ", but other files, sizes or times of change" : "",
               "). ", remedy);
  }
}

}  // namespace peal
