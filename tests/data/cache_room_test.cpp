// Room in a cache of limited size: which shards make it, who waits for it, and that nobody waits
// for ever.
#include <algorithm>
#include <barrier>
#include <limits>
#include <set>
#include <string>
#include <thread>

#include "tests/data/cache_support.h"

namespace peal::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// How many shards are in the folder, whole or in part, while one may be renamed or replaced by
// another: a listing may then have both names, the fewest of a few listings has not.
std::size_t shards_in(const fs::path& folder) {
  std::size_t fewest = std::numeric_limits<std::size_t>::max();
  for (int listing = 0; listing < 5; ++listing) {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder)) {
      const fs::path name = entry.path().filename();
      const fs::path whole = name.extension() == ".part" ? name.stem() : name;
      if (whole.extension() == ".peal") names.insert(whole.string());
    }
    fewest = std::min(fewest, names.size());
  }
  return fewest;
}

TEST(CacheRoom, OldestShardsMakeRoom) {
  const Place place;
  CachedShardsOptions options = place.in_windows(2, 5);
  const auto data = open_cached_shards(folder_of(place), place.manifest, options);
  EXPECT_FALSE(data->whole());
  const auto expected = counting_dataset(kRecords);
  for (std::int64_t w = 0; w < 12; ++w) {
    const std::int64_t first = w % 6 * 2, next = (w + 1) % 6 * 2;
    data->want(std::vector<std::int64_t>{first, first + 1, next, next + 1}, 2);
    for (std::int64_t i = 10 * first; i < 10 * first + 20; ++i) {
      ASSERT_EQ(data->label(i), static_cast<float>(i));  // waits
      ASSERT_EQ(std::memcmp(data->record(i), expected->record(i), 6), 0);
    }
    EXPECT_LE(shards_in(place.set), 5u);
  }
}

TEST(CacheRoom, ShardsInUseStay) {
  const Place place;
  CachedShardsOptions options = place.in_windows(2, 4);
  options.cache.wait_seconds = 0.3;
  const auto user = open_cached_shards(folder_of(place), place.manifest, options);
  user->want(std::vector<std::int64_t>{0, 1, 2}, 3);
  await(*user);
  const auto other = open_cached_shards(folder_of(place), place.manifest, options);
  other->want(std::vector<std::int64_t>{0, 5}, 2);  // one is there, and one has room
  await(*other);
  other->want(std::vector<std::int64_t>{0, 5, 6}, 3);
  const auto [text, kind] = error_of([&] { await(*other); });
  EXPECT_EQ(kind, ErrorKind::input);
  EXPECT_THAT(text, AllOf(HasSubstr(place.files[6]), HasSubstr("raise cache_size")));
  for (const std::int64_t shard : {0, 1, 2, 5}) {
    EXPECT_TRUE(fs::exists(place.set / place.files[static_cast<std::size_t>(shard)])) << shard;
  }
  user->want(std::vector<std::int64_t>{0}, 1);  // lets two go
  const auto third = open_cached_shards(folder_of(place), place.manifest, options);
  third->want(std::vector<std::int64_t>{6}, 1);
  await(*third);
  EXPECT_EQ(third->label(61), 61);
}

// Another process is about to make room for a shard: what comes later must not take that room.
TEST(CacheRoom, RoomIsTakenInOrder) {
  const Place place;
  CachedShardsOptions options = place.in_windows(2, 5);
  fs::create_directories(place.set);
  ByteLocks other(place.set / "locks");
  ASSERT_TRUE(other.try_exclusive(4));  // fetches shard 2
  const auto log = std::make_shared<Log>();
  const auto data = open_cached_shards(faulty(place, log), place.manifest, options);
  data->want(std::vector<std::int64_t>{0, 1, 2, 3, 4}, 3);
  wait_until([&] { return count(place.set, ".peal") == 2; });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(count(place.set, ".peal"), 2);
  const std::string reserved = (place.set / place.files[2]).string() + ".part";
  write_file_atomically(reserved, "");
  wait_until([&] { return count(place.set, ".peal") == 4; });  // all but its own
  other.unlock(4);
  await(*data);
  EXPECT_EQ(data->label(20), 20);
}

// Two windows are room enough for any number of readers that are at most a step apart.
TEST(CacheRoom, ReadersInStepNeverStarve) {
  const Place place;
  CachedShardsOptions options = place.in_windows(2, 4);
  constexpr int kReaders = 3, kWindows = 60;
  std::barrier in_step(kReaders);
  std::atomic<int> right{0};
  const auto reader = [&](int r) {
    try {
      const auto data = open_cached_shards(folder_of(place), place.manifest, options);
      const auto want = [&](std::int64_t w, std::size_t now) {
        const std::int64_t first = w % 6 * 2, next = (w + 1) % 6 * 2;
        data->want(std::vector<std::int64_t>{first, first + 1, next, next + 1}, now);
      };
      const auto read = [&](std::int64_t w) {
        const std::int64_t first = w % 6 * 2;
        right += data->label(10 * first) + data->label(10 * first + 10) == 20 * first + 10;
      };
      for (std::int64_t w = 0; w < kWindows; ++w) {
        want(w, 2);
        read(w);
        in_step.arrive_and_wait();
        want(w, 4);  // a step that begins in one window and ends in the next: each reads of one
        if (r == w % kReaders) {
          read(w);
          want(w + 1, 2);
        } else {
          read(w + 1);
        }
        in_step.arrive_and_wait();
      }
    } catch (const std::exception& error) {
      ADD_FAILURE() << error.what();
      in_step.arrive_and_drop();
    }
  };
  std::vector<std::thread> readers;
  for (int r = 0; r < kReaders; ++r) readers.emplace_back(reader, r);
  for (std::thread& thread : readers) thread.join();
  EXPECT_EQ(right, kReaders * kWindows * 2);
}

// How long there was no room for a shard counts from when it is needed.
TEST(CacheRoom, RoomForLaterMayBeLateForLong) {
  const Place place;
  CachedShardsOptions options = place.in_windows(1, 2);
  options.cache.wait_seconds = 2;
  auto user = open_cached_shards(folder_of(place), place.manifest, options);
  user->want(std::vector<std::int64_t>{0, 1}, 2);
  await(*user);
  const auto other = open_cached_shards(folder_of(place), place.manifest, options);
  other->want(std::vector<std::int64_t>{0, 5}, 1);
  await(*other);
  std::this_thread::sleep_for(std::chrono::milliseconds(2300));
  other->want(std::vector<std::int64_t>{5}, 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // it asks, and there is no room
  user.reset();
  EXPECT_EQ(other->label(50), 50);
}

TEST(CacheRoom, RoomIsLookedForFirst) {
  const Place place;
  CachedShardsOptions options = place.options();
  options.cache.limit = 11 * place.shard_bytes;
  const auto open = [&](const std::string& manifest) {
    return error_of([&] { open_cached_shards(folder_of(place), manifest, options); });
  };
  EXPECT_THAT(open(place.manifest).first,
              AllOf(HasSubstr(place.cache.string()), HasSubstr("raise cache_size")));
  options.window_shards = 6;
  EXPECT_THAT(open(place.manifest).first, HasSubstr("raise cache_size"));
  options.window_shards = 5;
  open_cached_shards(folder_of(place), place.manifest, options);
  // A shard larger than any disk.
  options = place.options();
  const auto at = place.manifest.find(cat("bytes: ", place.shard_bytes));
  const std::string huge =
      std::string(place.manifest).replace(at, 7, "bytes: 4611686018427387904 # ");
  const auto [text, kind] =
      open(huge.substr(0, huge.find(" # ")) + huge.substr(huge.find(" xxh64", at)));
  EXPECT_EQ(kind, ErrorKind::input);
  EXPECT_THAT(text, AllOf(HasSubstr("are free"), HasSubstr(place.cache.string())));
  EXPECT_EQ(count(place.set, ".peal"), 0);
}

TEST(CacheRoom, TwoSetsShareOneCache) {
  const Place place;
  write_shards(*counting_dataset(60), place.folder / "other", {.count = 6});
  const std::string manifest = read_file(place.folder / "other" / kShardManifestName);
  fetch_all(place, folder_of(place), place.options());
  CachedShardsOptions options = place.options();
  options.cache.limit = (kShards + 2) * place.shard_bytes;
  const auto data = open_cached_shards(
      [&](auto stopped) { return folder_source(place.folder / "other", stopped); }, manifest,
      options);
  want_all(*data);
  await(*data);
  EXPECT_EQ(data->label(59), 59);
  // Four of the first set, used longest ago, had to go.
  EXPECT_EQ(count(place.set, ".peal"), kShards - 4);
}

}  // namespace
}  // namespace peal::testing
