#include "core/data/cache_room.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <thread>
#include <vector>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/data/shard_format.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

struct CachedFile {
  fs::path path;
  std::uint64_t lock_byte = 0;  // in its folder's file of locks
  std::uint64_t bytes = 0;
  fs::file_time_type used;
};

// The files of one set. A folder without a manifest that can be read is none of a cache, and is
// left alone.
void add_set(const fs::path& folder, std::vector<CachedFile>& files) {
  std::error_code code;
  if (!fs::is_directory(folder, code) || !fs::exists(folder / kShardManifestName, code)) return;
  ShardManifest manifest;
  try {
    const std::string path = (folder / kShardManifestName).string();
    manifest = parse_shard_manifest(read_file(path), path);
  } catch (const Error& error) {
    log::info(cat(error.what(), "; its shards are not counted"));
    return;
  }
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> known;  // lock byte, bytes
  for (std::size_t i = 0; i < manifest.shards.size(); ++i) {
    const ShardManifest::Shard& shard = manifest.shards[i];
    known[shard.file] = {2 * i + 1, shard.bytes};
    known[shard.file + ".part"] = {2 * i, shard.bytes};
  }
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code)) {
    const auto found = known.find(it->path().filename().string());
    if (found == known.end()) continue;
    files.push_back({it->path(), found->second.first, found->second.second,
                     fs::last_write_time(it->path(), code)});
    code.clear();  // it may have gone meanwhile
  }
}

std::vector<CachedFile> files_in(const fs::path& root) {
  std::vector<CachedFile> files;
  std::error_code code;
  for (fs::directory_iterator it(root, code), end; !code && it != end; it.increment(code)) {
    add_set(it->path(), files);
  }
  return files;
}

}  // namespace

RootLock::RootLock(const fs::path& root, double seconds, const std::function<bool()>& stopped)
    : locks_(root / "lock") {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!locks_.try_exclusive(0)) {
    if (stopped && stopped()) {
      throw Error(ErrorKind::internal, root.string(), "stopped while another process had its lock");
    }
    if (std::chrono::steady_clock::now() > end) {
      throw Error(
          ErrorKind::peer, root.string(),
          cat("waited ", seconds, " s for the lock that another process of this host holds"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

std::uint64_t cache_bytes(const fs::path& root) {
  std::uint64_t sum = 0;
  for (const CachedFile& file : files_in(root)) sum += file.bytes;
  return sum;
}

bool make_cache_room(const fs::path& root, std::uint64_t limit, std::uint64_t bytes,
                     const fs::path& part) {
  std::vector<CachedFile> files = files_in(root);
  std::erase_if(files, [&](const CachedFile& file) { return file.path == part; });
  std::uint64_t used = 0;
  for (const CachedFile& file : files) used += file.bytes;
  std::sort(files.begin(), files.end(), [](const CachedFile& a, const CachedFile& b) {
    return a.used != b.used ? a.used < b.used : a.path < b.path;
  });
  for (const CachedFile& file : files) {
    if (used + bytes <= limit) return true;
    // Opened anew: what this process itself holds is held against it, too.
    ByteLocks locks(file.path.parent_path() / "locks");
    std::error_code code;
    if (!locks.try_exclusive(file.lock_byte)) continue;
    if (fs::remove(file.path, code)) used -= file.bytes;
  }
  return used + bytes <= limit;
}

}  // namespace peal
