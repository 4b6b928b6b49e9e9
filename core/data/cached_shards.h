// A data set whose shards come from a folder or a web server to the host's own disk, before or
// while they are read.
#pragma once

#include "core/data/dataset.h"
#include "core/data/shard_cache.h"

namespace peal {

struct CachedShardsOptions {
  CacheOptions cache;
  RetryOptions retries;
  // 0: every shard is held from want() of all of them on. Else only those that were wanted last
  // are, which are at most two windows of so many, and a step's more.
  std::int64_t window_shards = 0;
};

// `manifest_text` is the source's manifest. Nothing is fetched before want(); then a thread fetches
// the shards in the order wanted, those first that no other process of the host fetches. What comes
// is checked by checksum before it is used. whole() where window_shards is 0: then no record may be
// read before arrival() says that nothing is missing. Throws Error(input), also when the disk or
// the cache's limit has no room.
//
// `make_source` is called once, with what the source is to ask while it reads. A reader that waits
// for a shard says so in the log after a second, and again every ten. 2 s after cache.stopped()
// became true fetching ends with an error; the destructor ends it at once.
using MakeSource = std::function<std::unique_ptr<ShardSource>(std::function<bool()> stopped)>;
std::unique_ptr<Dataset> open_cached_shards(const MakeSource& make_source,
                                            const std::string& manifest_text,
                                            const CachedShardsOptions& options);

}  // namespace peal
