#include "core/data/shard_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/base/checksum.h"
#include "core/base/log.h"
#include "core/data/cache_room.h"

namespace peal {
namespace {

namespace fs = std::filesystem;

// A try that brought so much has earned as many again.
constexpr std::uint64_t kProgressBytes = std::uint64_t{64} << 10;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::uint64_t fetch_byte(std::int64_t shard) {
  return 2 * static_cast<std::uint64_t>(shard);
}

std::uint64_t use_byte(std::int64_t shard) {
  return fetch_byte(shard) + 1;
}

fs::path part_of(const fs::path& path) {
  return path.string() + ".part";
}

// The file that a fetch goes on with.
class PartFile {
 public:
  explicit PartFile(const fs::path& path) : path_(path) {
    fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("cannot create");
    struct stat info {};
    if (::fstat(fd_, &info) != 0) fail("cannot stat");
    size_ = static_cast<std::uint64_t>(info.st_size);
  }
  ~PartFile() { ::close(fd_); }
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  std::uint64_t size() const { return size_; }

  void append(const std::byte* data, std::size_t bytes) {
    while (bytes > 0) {
      const ssize_t n = ::pwrite(fd_, data, bytes, static_cast<off_t>(size_));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail("cannot write");
      data += n;
      bytes -= static_cast<std::size_t>(n);
      size_ += static_cast<std::uint64_t>(n);
    }
  }

  void clear() {
    if (::ftruncate(fd_, 0) != 0) fail("cannot empty");
    size_ = 0;
  }

  bool begins_like_a_shard() const {
    char magic[8] = {};
    const std::size_t n = std::min<std::size_t>(size_, sizeof magic);
    return ::pread(fd_, magic, n, 0) == static_cast<ssize_t>(n) &&
           std::memcmp(magic, "PEALSHD1", n) == 0;
  }

  void rename_to(const fs::path& path) {
    if (::fsync(fd_) != 0) fail("cannot sync");
    if (::rename(path_.c_str(), path.c_str()) != 0) fail("cannot rename");
    sync_folder(path.parent_path());
  }

 private:
  [[noreturn]] void fail(const char* action) const {
    fail_input(path_.string(), action, ": ", std::strerror(errno));
  }

  fs::path path_;
  int fd_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace

ShardCache::ShardCache(CacheOptions options, const std::string& manifest_text,
                       ShardManifest manifest)
    : options_(std::move(options)),
      manifest_(std::move(manifest)),
      starts_(shard_starts_of(manifest_)),
      verified_(manifest_.shards.size()) {
  const std::string id = hex(xxh64(manifest_text.data(), manifest_text.size()));
  folder_ = options_.root / id;
  make_folders(folder_);
  const RootLock lock(options_.root, options_.wait_seconds, options_.stopped);
  const fs::path path = folder_ / kShardManifestName;
  std::error_code code;
  if (!fs::exists(path, code) || read_file(path) != manifest_text) {
    write_file_atomically(path, manifest_text);
  }
  locks_ = std::make_unique<ByteLocks>(folder_ / "locks");
}

fs::path ShardCache::path(std::int64_t shard) const {
  return folder_ / manifest_.shards[static_cast<std::size_t>(shard)].file;
}

std::uint64_t ShardCache::bytes_here(std::int64_t shard) const {
  std::error_code code;
  for (const fs::path& file : {path(shard), part_of(path(shard))}) {
    const std::uintmax_t bytes = fs::file_size(file, code);
    if (!code) return bytes;
  }
  return 0;
}

void ShardCache::check_room(std::uint64_t missing, std::uint64_t at_once) const {
  const std::uint64_t limit = options_.limit;
  if (limit > 0 && at_once > limit) {
    fail_input(options_.root.string(), "the cache may hold ",
               human_bytes(static_cast<double>(limit)), ", and ",
               human_bytes(static_cast<double>(at_once)),
               " of shards are needed at a time; raise cache_size, or read fewer at a time with "
               "data.shuffle_window_shards");
  }
  struct statvfs disk {};
  if (::statvfs(options_.root.c_str(), &disk) != 0) {
    fail_input(options_.root.string(), "cannot tell its free space: ", std::strerror(errno));
  }
  const std::uint64_t free = std::uint64_t{disk.f_bavail} * disk.f_frsize;
  // What the cache holds already can make room where it has a limit.
  const std::uint64_t needed = limit == 0 ? missing : std::min(missing, at_once);
  const std::uint64_t old = limit == 0 ? 0 : cache_bytes(options_.root);
  if (needed <= free + old) return;
  fail_input(options_.root.string(), human_bytes(static_cast<double>(free)), " are free, and ",
             human_bytes(static_cast<double>(needed)),
             " of shards are to come here; make room, name another folder, or read fewer at a time "
             "with data.shuffle_window_shards and cache_size");
}

ShardCache::Result ShardCache::get(std::int64_t shard, ShardSource& source,
                                   const RetryOptions& retries) {
  if (auto part = open(shard, Fetching::no)) {
    others_.erase(shard);
    return {Got::part, std::move(part)};
  }
  if (!locks_->try_exclusive(fetch_byte(shard))) {
    check_standstill(shard);
    return {has_room(shard) ? Got::busy : Got::roomless};
  }
  const std::unique_ptr<ByteLocks, std::function<void(ByteLocks*)>> unlock(
      locks_.get(), [&](ByteLocks* locks) { locks->unlock(fetch_byte(shard)); });
  others_.erase(shard);
  if (auto part = open(shard, Fetching::yes)) return {Got::part, std::move(part)};
  if (!make_room(shard)) return {Got::full};
  fetch(shard, source, retries);
  if (auto part = open(shard, Fetching::yes)) return {Got::part, std::move(part)};
  return {Got::roomless};  // another process has made room of it already
}

void ShardCache::leave(std::int64_t shard) {
  locks_->unlock(use_byte(shard));
}

// What is there under its final name was right when it got it; a file that is not now is not used.
std::optional<ShardPart> ShardCache::open(std::int64_t shard, Fetching fetching) {
  const fs::path file = path(shard);
  std::error_code code;
  if (!fs::exists(file, code) || !locks_->try_shared(use_byte(shard))) return std::nullopt;
  const auto at = static_cast<std::size_t>(shard);
  try {
    ShardPart part =
        open_shard_part(file, file.string(), manifest_, manifest_.shards[at], starts_[at]);
    check_shard_section(part.bytes(), part.header, 1, part.name);
    if (options_.verify && !verified_[at])
      check_shard_contents(part.bytes(), part.header, part.name);
    verified_[at] = true;
    ::utimensat(AT_FDCWD, file.c_str(), nullptr, 0);  // the oldest make room first
    return part;
  } catch (const Error& error) {
    leave(shard);
    if (fetching == Fetching::yes) log::info(cat(error.what(), "; it is fetched anew"));
    return std::nullopt;
  }
}

// A file of the shard, even an empty one, counts as the whole.
bool ShardCache::has_room(std::int64_t shard) const {
  if (options_.limit == 0) return true;
  std::error_code code;
  return fs::exists(part_of(path(shard)), code) || fs::exists(path(shard), code);
}

bool ShardCache::make_room(std::int64_t shard) {
  if (options_.limit == 0) return true;
  const RootLock lock(options_.root, options_.wait_seconds, options_.stopped);
  const fs::path part = part_of(path(shard));
  const std::uint64_t bytes = manifest_.shards[static_cast<std::size_t>(shard)].bytes;
  if (!make_cache_room(options_.root, options_.limit, bytes, part)) return false;
  const PartFile reserved(part);  // others count it as the whole from now on
  return true;
}

// Bytes the wrong ones of which are found before the file gets its name; `name` is the source's.
std::string ShardCache::problem_of(const fs::path& file, std::int64_t shard,
                                   const std::string& name) const {
  const auto at = static_cast<std::size_t>(shard);
  try {
    const ShardPart part =
        open_shard_part(file, name, manifest_, manifest_.shards[at], starts_[at]);
    check_shard_contents(part.bytes(), part.header, name);
    return "";
  } catch (const Error& error) {
    return error.message();
  }
}

void ShardCache::fetch(std::int64_t shard, ShardSource& source, const RetryOptions& options) {
  const ShardManifest::Shard& wanted = manifest_.shards[static_cast<std::size_t>(shard)];
  const std::string name = source.name(wanted.file);
  const fs::path part = part_of(path(shard));
  Retries retries(options, name, options_.stopped);
  PartFile file(part);
  if (file.size() > wanted.bytes) file.clear();
  for (;;) {
    const std::uint64_t before = file.size();
    HttpAnswer answer{HttpAnswer::End::complete, ""};
    if (before < wanted.bytes) {
      answer = source.read(wanted.file, before, wanted.bytes - before,
                           [&](const std::byte* data, std::size_t bytes) {
                             file.append(data, bytes);
                             received_.store(file.size(), std::memory_order_relaxed);
                             fetched_.fetch_add(bytes, std::memory_order_relaxed);
                           });
    }
    if (answer.end == HttpAnswer::End::stopped) retries.stop();
    if (answer.end == HttpAnswer::End::never) retries.never(answer.problem);
    if (!file.begins_like_a_shard()) {
      file.clear();
      retries.wrong(cat("what came is no shard file",
                        answer.problem.empty() ? "" : cat(" (", answer.problem, ")")));
    } else if (answer.end == HttpAnswer::End::again && file.size() < wanted.bytes) {
      retries.again(answer.problem, file.size() - before >= kProgressBytes);
    } else if (file.size() < wanted.bytes) {
      retries.again(cat("ended after ", file.size(), " of ", wanted.bytes, " bytes"),
                    file.size() - before >= kProgressBytes);
    } else if (const std::string problem = problem_of(part, shard, name); !problem.empty()) {
      file.clear();
      retries.wrong(problem);
    } else {
      file.rename_to(path(shard));
      verified_[static_cast<std::size_t>(shard)] = true;
      received_.store(0, std::memory_order_relaxed);
      return;
    }
  }
}

void ShardCache::check_standstill(std::int64_t shard) {
  const std::uint64_t bytes = bytes_here(shard);
  const auto [seen, is_new] = others_.try_emplace(shard, Seen{bytes, now()});
  if (!is_new && seen->second.bytes != bytes) seen->second = {bytes, now()};
  if (now() - seen->second.since <= options_.wait_seconds) return;
  throw Error(ErrorKind::peer, path(shard).string(),
              cat("another process of this host fetches it and has not got on for ",
                  options_.wait_seconds, " s (", bytes, " bytes have come)"));
}

}  // namespace peal
