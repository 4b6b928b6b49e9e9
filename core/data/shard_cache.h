// A folder on a host's own disk that holds shards of any number of sets, for any number of
// processes:
//   ROOT/lock                       byte 0: whoever counts, makes room or writes a manifest
//   ROOT/<xxh64 of the manifest>/   one set
//     manifest.textproto
//     locks                         byte 2i: whoever fetches shard i; 2i + 1: whoever has it mapped
//     shard-00000-of-00008.peal     checked by checksum before it got this name
//     shard-00001-of-00008.peal.part
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>

#include "core/data/byte_locks.h"
#include "core/data/shard_part.h"
#include "core/data/shard_source.h"

namespace peal {

struct CacheOptions {
  std::filesystem::path root;
  std::uint64_t limit = 0;  // most bytes of the cache, all sets together; 0: what the disk has
  bool verify = false;  // check the contents of shards that are there, not size and header alone
  double wait_seconds = 60;  // longest time in which a fetch by another process may stand still
  std::function<bool()> stopped = {};
};

// One set in the cache. One thread at a time, except received().
class ShardCache {
 public:
  // Makes the folders and writes the manifest. Throws Error(input).
  ShardCache(CacheOptions options, const std::string& manifest_text, ShardManifest manifest);

  const ShardManifest& manifest() const { return manifest_; }
  std::filesystem::path path(std::int64_t shard) const;
  // Of this shard, finished or not.
  std::uint64_t bytes_here(std::int64_t shard) const;
  // Throws Error(input) when the disk, or the limit, has no room for so many bytes more, of which
  // `at_once` must lie there together.
  void check_room(std::uint64_t missing, std::uint64_t at_once) const;

  enum class Got { part, busy, roomless, full };
  struct Result {
    Got got = Got::busy;
    std::optional<ShardPart> part = {};
  };
  // Maps the shard, which is fetched before where it is not there. busy: another process fetches
  // it. roomless: another fetches it, and has not taken its room yet. full: shards that are in use
  // leave no room. A part stays in the cache until leave(). Throws Error where it cannot be had, or
  // when another process that fetches it stands still.
  //
  // Of processes that read the same shards in one order, with room for all that they read at a
  // time, none waits for ever if none asks for another shard after roomless or full: then nobody
  // has room for a later shard while another has none for what it needs next.
  Result get(std::int64_t shard, ShardSource& source, const RetryOptions& retries);
  void leave(std::int64_t shard);

  // Bytes that are there of the shard that get() fetches now, and that came in all.
  std::uint64_t received() const { return received_.load(std::memory_order_relaxed); }
  std::uint64_t fetched() const { return fetched_.load(std::memory_order_relaxed); }

 private:
  enum class Fetching { no, yes };  // whether this process holds the shard's fetch lock
  std::optional<ShardPart> open(std::int64_t shard, Fetching fetching);
  bool has_room(std::int64_t shard) const;
  bool make_room(std::int64_t shard);
  void fetch(std::int64_t shard, ShardSource& source, const RetryOptions& retries);
  void check_standstill(std::int64_t shard);
  std::string problem_of(const std::filesystem::path& part, std::int64_t shard,
                         const std::string& name) const;

  const CacheOptions options_;
  const ShardManifest manifest_;
  const std::vector<std::int64_t> starts_;
  std::filesystem::path folder_;
  std::unique_ptr<ByteLocks> locks_;
  std::vector<bool> verified_;
  struct Seen {
    std::uint64_t bytes = 0;
    double since = 0;
  };
  std::map<std::int64_t, Seen> others_;  // shards that other processes fetch
  std::atomic<std::uint64_t> received_{0}, fetched_{0};
};

}  // namespace peal
