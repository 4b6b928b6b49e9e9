// What tests of cached shards share: a set of shards with a cache beside it, and sources that fail
// as they are told.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "core/base/checksum.h"
#include "core/data/cached_shards.h"
#include "core/data/shard.h"
#include "tests/data/support.h"

namespace peal::testing {

namespace fs = std::filesystem;

constexpr std::int64_t kRecords = 120, kShards = 12;

// Twelve shards of ten records, and a cache beside them.
struct Place {
  Place() {
    write_shards(*counting_dataset(kRecords), folder / "shards", {.count = kShards});
    manifest = read_file(folder / "shards" / kShardManifestName);
    const ShardManifest parsed = parse_shard_manifest(manifest, "test");
    for (const auto& shard : parsed.shards) files.push_back(shard.file);
    shard_bytes = parsed.shards[0].bytes;
    cache = folder / "cache";
    set = cache / hex(xxh64(manifest.data(), manifest.size()));
  }

  CachedShardsOptions options() const {
    CachedShardsOptions o;
    o.cache.root = cache;
    o.cache.wait_seconds = 20;
    o.retries = {.tries = 3, .backoff_seconds = 0.001, .seed = 1};
    return o;
  }

  // Where readers want windows of shards, and there is room for so many shards.
  CachedShardsOptions in_windows(std::int64_t shards, std::uint64_t room) const {
    CachedShardsOptions o = options();
    o.window_shards = shards;
    o.cache.limit = room * shard_bytes;
    return o;
  }

  Folder folder;
  std::string manifest;
  std::vector<std::string> files;
  std::uint64_t shard_bytes = 0;
  fs::path cache, set;
};

// Reads a folder; what each try is to get instead may be told by `fault`.
struct Try {
  std::string file;
  int number = 0;  // of this file, from 1
  std::uint64_t first = 0;
};
struct Fault {
  std::uint64_t bytes = ~std::uint64_t{0};  // no more than these
  std::int64_t wrong_at = -1;               // byte of the file to flip
  std::string instead = {};                 // sent in place of the file
  HttpAnswer answer{HttpAnswer::End::complete, ""};
};
struct Log {
  std::mutex mutex;
  std::map<std::string, int> tries;
  std::map<std::string, std::uint64_t> bytes;
  std::vector<Try> all;
};

class Faulty final : public ShardSource {
 public:
  Faulty(fs::path folder, std::function<Fault(const Try&)> fault, std::shared_ptr<Log> log)
      : folder_(std::move(folder)), fault_(std::move(fault)), log_(std::move(log)) {}

  std::string name(const std::string& file) const override { return "test://" + file; }
  HttpAnswer read(const std::string& file, std::uint64_t first, std::uint64_t limit,
                  const HttpSink& sink) override {
    Try attempt{file, 0, first};
    {
      const std::lock_guard lock(log_->mutex);
      attempt.number = ++log_->tries[file];
      log_->all.push_back(attempt);
    }
    const Fault fault = fault_ ? fault_(attempt) : Fault{};
    std::string text = fault.instead.empty() ? read_file(folder_ / file) : fault.instead;
    if (fault.wrong_at >= 0) text[static_cast<std::size_t>(fault.wrong_at)] ^= 1;
    text = text.substr(std::min<std::size_t>(first, text.size()));
    text.resize(std::min<std::size_t>(text.size(), fault.bytes));
    if (text.size() > limit) return {HttpAnswer::End::again, "more bytes than are allowed"};
    {
      const std::lock_guard lock(log_->mutex);
      log_->bytes[file] += text.size();
    }
    if (!text.empty()) sink(reinterpret_cast<const std::byte*>(text.data()), text.size());
    return fault.answer;
  }

 private:
  fs::path folder_;
  std::function<Fault(const Try&)> fault_;
  std::shared_ptr<Log> log_;
};

inline MakeSource folder_of(const Place& place) {
  return [&](auto stopped) { return folder_source(place.folder / "shards", stopped); };
}

inline MakeSource faulty(const Place& place, std::shared_ptr<Log> log,
                         std::function<Fault(const Try&)> fault = {}) {
  return [&place, log, fault](auto) {
    return std::make_unique<Faulty>(place.folder / "shards", fault, log);
  };
}

inline void want_all(const Dataset& data) {
  std::vector<std::int64_t> all(data.shard_starts().size() - 1);
  std::iota(all.begin(), all.end(), std::int64_t{0});
  data.want(all, all.size());
}

inline void wait_until(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

inline void await(const Dataset& data) {
  wait_until([&] { return data.arrival().missing == 0; });
}

inline std::unique_ptr<Dataset> fetch_all(const Place& place, const MakeSource& source,
                                          const CachedShardsOptions& options) {
  auto data = open_cached_shards(source, place.manifest, options);
  want_all(*data);
  await(*data);
  return data;
}

inline void expect_records(const Dataset& data) {
  const auto expected = counting_dataset(kRecords);
  ASSERT_EQ(data.size(), kRecords);
  for (std::int64_t i = 0; i < kRecords; ++i) {
    ASSERT_EQ(std::memcmp(data.record(i), expected->record(i), 6), 0) << i;
    ASSERT_EQ(data.label(i), expected->label(i)) << i;
  }
}

// The message of what `work` throws, and its kind.
template <typename Work>
std::pair<std::string, ErrorKind> error_of(const Work& work) {
  try {
    work();
  } catch (const Error& error) {
    return {error.what(), error.kind()};
  }
  ADD_FAILURE() << "no error was thrown";
  return {"", ErrorKind::internal};
}

inline int count(const fs::path& folder, const std::string& ending) {
  int n = 0;
  if (!fs::exists(folder)) return 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    n += entry.path().filename().string().ends_with(ending) ? 1 : 0;
  }
  return n;
}

inline std::uint64_t bytes_of(const Log& log) {
  std::uint64_t sum = 0;
  for (const auto& [file, bytes] : log.bytes) sum += bytes;
  return sum;
}

}  // namespace peal::testing
