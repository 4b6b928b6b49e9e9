// Room in a cache of shards (shard_cache.h), among all processes of a host.
#pragma once

#include <functional>
#include <memory>

#include "core/data/byte_locks.h"

namespace peal {

// Held by whoever counts, makes room or writes a manifest. The constructor waits for another that
// holds it, and throws Error(peer) after `seconds`, Error(internal) when stopped.
class RootLock {
 public:
  RootLock(const std::filesystem::path& root, double seconds, const std::function<bool()>& stopped);

 private:
  ByteLocks locks_;
};

// Of all shards in the cache, those that are being fetched as if they were there.
std::uint64_t cache_bytes(const std::filesystem::path& root);

// Removes shards that nobody uses, those that were opened longest ago first, until `bytes` more
// keep the cache within `limit`; false when too many are in use. `part`, the file that the bytes
// are for, is neither counted nor removed. Under the RootLock. O(files in the cache).
bool make_cache_room(const std::filesystem::path& root, std::uint64_t limit, std::uint64_t bytes,
                     const std::filesystem::path& part);

}  // namespace peal
