#include "core/data/cached_shards.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "core/base/error.h"
#include "core/base/log.h"

namespace peal {
namespace {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;

constexpr Seconds kGrace{2};       // for a step that is under way when the end is asked for
constexpr Seconds kPoll{0.02};     // for what other processes fetch
constexpr Seconds kFullPoll{0.2};  // for room in the cache
constexpr Seconds kFirstWord{1}, kNextWord{10};  // of a reader that waits

void check_labels(const ShardPart& part) {
  for (std::int64_t i = 0; i < part.header.records; ++i) {
    float label;
    std::memcpy(&label, part.map.data() + part.header.sections[1].offset + 4 * i, sizeof label);
    if (std::isfinite(label)) continue;
    fail_input(part.name, "record ", i, " has label ", label, "; allowed are finite numbers");
  }
}

class CachedShards final : public Dataset {
 public:
  CachedShards(const MakeSource& make_source, const std::string& manifest_text,
               const CachedShardsOptions& options);
  ~CachedShards() override;

  std::int64_t size() const override { return manifest_.records; }
  const Shape& record_shape() const override { return manifest_.record_shape; }
  DType record_dtype() const override { return manifest_.dtype; }
  const std::string& name() const override { return name_; }
  std::span<const std::int64_t> shard_starts() const override { return starts_; }
  bool whole() const override { return options_.window_shards == 0; }
  const void* record(std::int64_t index) const override;
  float label(std::int64_t index) const override;
  void want(std::span<const std::int64_t> shards, std::size_t now) const override;
  Arrival arrival() const override;

 private:
  struct Slot {
    std::atomic<const std::byte*> base{nullptr};  // of the file, while it is mapped
    std::optional<ShardPart> part;
    ShardHeader layout;
    bool wanted = false;
  };

  void check_room() const;
  std::size_t shard_of(std::int64_t record) const;
  const std::byte* base_of(std::size_t shard) const;
  const std::byte* wait_for(std::size_t shard) const;
  void fetch();
  enum class Pass { some, none, full };
  Pass fetch_some(std::unique_lock<std::mutex>& lock);
  void check_full(std::size_t shard);
  void publish(std::size_t shard, ShardPart part) const;
  void let_go(std::size_t shard) const;
  bool must_stop() const;

  const CachedShardsOptions options_;
  const std::unique_ptr<ShardSource> source_;
  const ShardManifest manifest_;
  const std::string name_;
  const std::vector<std::int64_t> starts_;
  const std::uint64_t record_bytes_;
  std::vector<std::int64_t> all_;
  mutable std::unique_ptr<ShardCache> cache_;  // of the thread, but leave() and received()
  // What is held is no part of what the data set is: readers and want() change it under the mutex.
  mutable std::mutex mutex_;
  mutable std::condition_variable wanted_, came_;
  mutable std::vector<Slot> slots_;
  mutable std::vector<std::int64_t> list_;
  mutable std::size_t now_ = 0;
  mutable std::exception_ptr error_;
  mutable std::atomic<std::int64_t> fetching_{-1};
  mutable std::uint64_t version_ = 0;                    // of the list
  mutable std::optional<Clock::time_point> full_since_;  // for what is needed now
  std::atomic<bool> closing_{false};
  mutable std::atomic<Clock::rep> stop_seen_{0};
  std::thread thread_;
};

CachedShards::CachedShards(const MakeSource& make_source, const std::string& manifest_text,
                           const CachedShardsOptions& options)
    : options_(options),
      source_(make_source([this] { return must_stop(); })),
      manifest_(parse_shard_manifest(manifest_text, source_->name(kShardManifestName))),
      name_(source_->name(kShardManifestName)),
      starts_(shard_starts_of(manifest_)),
      record_bytes_(shard_layout(manifest_.record_shape, manifest_.dtype, 1, name_).record_bytes()),
      slots_(manifest_.shards.size()) {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    slots_[i].layout =
        shard_layout(manifest_.record_shape, manifest_.dtype, manifest_.shards[i].records, name_);
  }
  CacheOptions cache = options_.cache;
  cache.stopped = [this] { return must_stop(); };
  cache_ = std::make_unique<ShardCache>(std::move(cache), manifest_text, manifest_);
  check_room();
  thread_ = std::thread([this] { fetch(); });
}

CachedShards::~CachedShards() {
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
  }
  wanted_.notify_all();
  thread_.join();
}

// The largest shards may stand together in two windows.
void CachedShards::check_room() const {
  std::vector<std::uint64_t> sizes;
  std::uint64_t missing = 0;
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    const std::uint64_t bytes = manifest_.shards[i].bytes;
    sizes.push_back(bytes);
    missing += bytes - std::min(bytes, cache_->bytes_here(static_cast<std::int64_t>(i)));
  }
  std::sort(sizes.rbegin(), sizes.rend());
  if (!whole()) {
    sizes.resize(std::min(sizes.size(), 2 * static_cast<std::size_t>(options_.window_shards)));
  }
  std::uint64_t at_once = 0;
  for (const std::uint64_t bytes : sizes) at_once += bytes;
  cache_->check_room(missing, at_once);
}

std::size_t CachedShards::shard_of(std::int64_t record) const {
  return static_cast<std::size_t>(std::upper_bound(starts_.begin(), starts_.end(), record) -
                                  starts_.begin() - 1);
}

const std::byte* CachedShards::base_of(std::size_t shard) const {
  const std::byte* base = slots_[shard].base.load(std::memory_order_acquire);
  return base != nullptr ? base : wait_for(shard);
}

const void* CachedShards::record(std::int64_t index) const {
  const std::size_t shard = shard_of(index);
  return base_of(shard) + slots_[shard].layout.sections[0].offset +
         static_cast<std::uint64_t>(index - starts_[shard]) * record_bytes_;
}

float CachedShards::label(std::int64_t index) const {
  const std::size_t shard = shard_of(index);
  float value;
  std::memcpy(&value,
              base_of(shard) + slots_[shard].layout.sections[1].offset +
                  static_cast<std::uint64_t>(index - starts_[shard]) * sizeof value,
              sizeof value);
  return value;
}

const std::byte* CachedShards::wait_for(std::size_t shard) const {
  std::unique_lock lock(mutex_);
  const auto start = Clock::now();
  auto word = start + kFirstWord;
  const auto told = [&] {
    return cat("waited ", std::round(Seconds(Clock::now() - start).count() * 10) / 10, " s for ",
               source_->name(manifest_.shards[shard].file));
  };
  for (;;) {
    if (const std::byte* base = slots_[shard].base.load(std::memory_order_relaxed)) {
      if (Clock::now() - start > kFirstWord) log::warn(cat(told(), ": data comes too slowly"));
      return base;
    }
    if (error_) std::rethrow_exception(error_);
    if (!slots_[shard].wanted) fail_internal(name_, "shard ", shard, " is read and was not wanted");
    came_.wait_for(lock, kPoll);
    if (Clock::now() < word) continue;
    word = Clock::now() + kNextWord;
    log::warn(
        cat(told(), ", of which ",
            human_bytes(static_cast<double>(cache_->bytes_here(static_cast<std::int64_t>(shard)))),
            " have come"));
  }
}

void CachedShards::want(std::span<const std::int64_t> shards, std::size_t now) const {
  {
    const std::lock_guard lock(mutex_);
    if (whole() && !list_.empty()) return;
    list_.assign(shards.begin(), shards.end());
    now_ = now;
    ++version_;
    full_since_.reset();
    for (Slot& slot : slots_) slot.wanted = false;
    for (const std::int64_t shard : list_) slots_[static_cast<std::size_t>(shard)].wanted = true;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      if (!slots_[i].wanted && slots_[i].part) let_go(i);
    }
  }
  wanted_.notify_all();
}

Dataset::Arrival CachedShards::arrival() const {
  const std::lock_guard lock(mutex_);
  if (error_) std::rethrow_exception(error_);
  Arrival sum{.fetched = cache_->fetched()};
  for (std::size_t i = 0; i < now_; ++i) {
    const std::uint64_t bytes = manifest_.shards[static_cast<std::size_t>(list_[i])].bytes;
    sum.bytes += bytes;
    if (slots_[static_cast<std::size_t>(list_[i])].part) continue;
    const bool comes = list_[i] == fetching_.load(std::memory_order_relaxed);
    // At least a byte is missing until the shard is checked and mapped.
    sum.missing += bytes - (comes ? std::min(bytes - 1, cache_->received()) : 0);
  }
  return sum;
}

void CachedShards::publish(std::size_t shard, ShardPart part) const {
  Slot& slot = slots_[shard];
  slot.part.emplace(std::move(part));
  slot.base.store(slot.part->map.data(), std::memory_order_release);
}

void CachedShards::let_go(std::size_t shard) const {
  slots_[shard].base.store(nullptr, std::memory_order_release);
  slots_[shard].part.reset();
  cache_->leave(static_cast<std::int64_t>(shard));
}

bool CachedShards::must_stop() const {
  if (closing_) return true;
  if (!options_.cache.stopped || !options_.cache.stopped()) return false;
  const Clock::rep now = Clock::now().time_since_epoch().count();
  Clock::rep none = 0;
  stop_seen_.compare_exchange_strong(none, now);
  return Clock::duration(now - stop_seen_) > kGrace;
}

void CachedShards::fetch() {
  std::unique_lock lock(mutex_);
  try {
    while (!closing_) {
      const bool all = std::all_of(list_.begin(), list_.end(), [&](std::int64_t shard) {
        return slots_[static_cast<std::size_t>(shard)].part.has_value();
      });
      if (all) {
        wanted_.wait(lock);
      } else if (const Pass pass = fetch_some(lock); pass != Pass::some) {
        wanted_.wait_for(lock, pass == Pass::full ? kFullPoll : kPoll);
      }
    }
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    error_ = std::current_exception();
  }
  came_.notify_all();
}

// Shards in use leave in time, when their windows are read; who needs one now waits for that, but
// not for ever.
void CachedShards::check_full(std::size_t shard) {
  const auto end = list_.begin() + static_cast<std::ptrdiff_t>(now_);
  if (std::find(list_.begin(), end, static_cast<std::int64_t>(shard)) == end) return;
  if (!full_since_) full_since_ = Clock::now();
  if (Seconds(Clock::now() - *full_since_).count() < options_.cache.wait_seconds) return;
  fail_input(options_.cache.root.string(), "the shards in use leave no room for ",
             manifest_.shards[shard].file, " (",
             human_bytes(static_cast<double>(manifest_.shards[shard].bytes)), ") within the ",
             human_bytes(static_cast<double>(options_.cache.limit)),
             " that the cache may hold; waited ", options_.cache.wait_seconds,
             " s; raise cache_size");
}

// One pass over the list.
CachedShards::Pass CachedShards::fetch_some(std::unique_lock<std::mutex>& lock) {
  Pass pass = Pass::none;
  const std::vector<std::int64_t> list = list_;
  const std::uint64_t version = version_;
  for (const std::int64_t shard : list) {
    const auto at = static_cast<std::size_t>(shard);
    if (closing_ || version != version_) return Pass::some;
    if (slots_[at].part) continue;
    fetching_ = shard;
    lock.unlock();
    ShardCache::Result result = cache_->get(shard, *source_, options_.retries);
    if (result.part) check_labels(*result.part);
    lock.lock();
    fetching_ = -1;
    if (result.got == ShardCache::Got::full) {
      check_full(at);
      return pass == Pass::some ? pass : Pass::full;
    }
    if (result.got == ShardCache::Got::roomless) return pass;
    if (!result.part) continue;
    full_since_.reset();
    pass = Pass::some;
    if (slots_[at].wanted) {
      publish(at, std::move(*result.part));
      came_.notify_all();
    } else {  // while it came, it was let go
      result.part.reset();
      cache_->leave(shard);
    }
  }
  return pass;
}

}  // namespace

std::unique_ptr<Dataset> open_cached_shards(const MakeSource& make_source,
                                            const std::string& manifest_text,
                                            const CachedShardsOptions& options) {
  return std::make_unique<CachedShards>(make_source, manifest_text, options);
}

}  // namespace peal
