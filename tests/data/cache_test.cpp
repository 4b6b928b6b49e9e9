// Shards that come to a host's own disk: what is kept, tried again, refused, shared and let go. The
// sources here are folders, and sources that fail as they are told.
#include <atomic>
#include <barrier>
#include <map>
#include <mutex>
#include <numeric>
#include <thread>

#include "core/base/checksum.h"
#include "core/data/cached_shards.h"
#include "core/data/shard.h"
#include "tests/data/support.h"

namespace peal {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::counting_dataset;
using testing::Folder;
using ::testing::HasSubstr;
using End = HttpAnswer::End;

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
  HttpAnswer answer{End::complete, ""};
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
    if (text.size() > limit) return {End::again, "more bytes than are allowed"};
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

MakeSource folder_of(const Place& place) {
  return [&](auto stopped) { return folder_source(place.folder / "shards", stopped); };
}

MakeSource faulty(const Place& place, std::shared_ptr<Log> log,
                  std::function<Fault(const Try&)> fault = {}) {
  return [&place, log, fault](auto) {
    return std::make_unique<Faulty>(place.folder / "shards", fault, log);
  };
}

void want_all(const Dataset& data) {
  std::vector<std::int64_t> all(data.shard_starts().size() - 1);
  std::iota(all.begin(), all.end(), std::int64_t{0});
  data.want(all, all.size());
}

void wait_until(const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition()) {
    ASSERT_LT(std::chrono::steady_clock::now(), end);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void await(const Dataset& data) {
  wait_until([&] { return data.arrival().missing == 0; });
}

std::unique_ptr<Dataset> fetch_all(const Place& place, const MakeSource& source,
                                   const CachedShardsOptions& options) {
  auto data = open_cached_shards(source, place.manifest, options);
  want_all(*data);
  await(*data);
  return data;
}

void expect_records(const Dataset& data) {
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

int count(const fs::path& folder, const std::string& ending) {
  int n = 0;
  if (!fs::exists(folder)) return 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    n += entry.path().filename().string().ends_with(ending) ? 1 : 0;
  }
  return n;
}

std::uint64_t bytes_of(const Log& log) {
  std::uint64_t sum = 0;
  for (const auto& [file, bytes] : log.bytes) sum += bytes;
  return sum;
}

TEST(Cache, HoldsWhatTheFolderHolds) {
  const Place place;
  const auto data = fetch_all(place, folder_of(place), place.options());
  expect_records(*data);
  EXPECT_TRUE(data->whole());
  EXPECT_EQ(data->arrival().fetched, kShards * place.shard_bytes);
  EXPECT_EQ(count(place.set, ".peal"), kShards);
  EXPECT_EQ(count(place.set, ".part"), 0);
  EXPECT_EQ(verify_shards(place.set), kRecords);  // the folder of a set is one of shards
}

TEST(Cache, TheNextRunFetchesNothing) {
  const Place place;
  const auto log = std::make_shared<Log>();
  fetch_all(place, faulty(place, log), place.options());
  EXPECT_EQ(bytes_of(*log), kShards * place.shard_bytes);
  const auto data = fetch_all(place, faulty(place, log), place.options());
  expect_records(*data);
  EXPECT_EQ(data->arrival().fetched, 0u);
  EXPECT_EQ(bytes_of(*log), kShards * place.shard_bytes);
}

TEST(Cache, AConnectionThatEndsIsGoneOnWith) {
  const Place place;
  const auto log = std::make_shared<Log>();
  // 1000 bytes at a time, then the end, with and without a word.
  const auto source = faulty(place, log, [](const Try& t) {
    return Fault{.bytes = 1000,
                 .answer = {t.number % 2 == 0 ? End::again : End::complete, "connection lost"}};
  });
  CachedShardsOptions options = place.options();
  options.retries.tries = 8;
  expect_records(*fetch_all(place, source, options));
  EXPECT_EQ(bytes_of(*log), kShards * place.shard_bytes) << "a byte came twice";
  for (const Try& t : log->all) EXPECT_EQ(t.first, 1000u * static_cast<unsigned>(t.number - 1));
}

TEST(Cache, AWrongByteIsNeverUsed) {
  const Place place;
  for (const std::int64_t at : {3, 100, 4090, 4100, 4161, 4230, 4095}) {
    fs::remove_all(place.cache);
    const auto log = std::make_shared<Log>();
    const auto once = faulty(
        place, log, [&](const Try& t) { return Fault{.wrong_at = t.number == 1 ? at : -1}; });
    expect_records(*fetch_all(place, once, place.options()));
    for (const auto& [file, tries] : log->tries) EXPECT_EQ(tries, 2) << at;

    fs::remove_all(place.cache);
    const auto always = faulty(place, std::make_shared<Log>(), [&](const Try& t) {
      return Fault{.wrong_at = t.file == place.files[5] ? at : -1};
    });
    const auto [text, kind] = error_of([&] { fetch_all(place, always, place.options()); });
    EXPECT_EQ(kind, ErrorKind::input);
    EXPECT_THAT(text, AllOf(HasSubstr("test://" + place.files[5]), HasSubstr("tried 3 times")));
    EXPECT_FALSE(fs::exists(place.set / place.files[5]));
  }
}

TEST(Cache, WhatIsNoShardIsSaid) {
  const Place place;
  const auto says = [&](const Fault& fault) {
    fs::remove_all(place.cache);
    return error_of([&] {
      fetch_all(place, faulty(place, std::make_shared<Log>(), [&](const Try&) { return fault; }),
                place.options());
    });
  };
  const std::string good = read_file(place.folder / "shards" / place.files[0]);
  auto [text, kind] =
      says({.instead = "<html>please log in</html>", .answer = {End::complete, "text/html"}});
  EXPECT_EQ(kind, ErrorKind::input);
  EXPECT_THAT(text, AllOf(HasSubstr("is no shard file (text/html)"), HasSubstr("tried 3 times")));
  std::tie(text, kind) = says({.instead = good.substr(0, 4200)});
  EXPECT_EQ(kind, ErrorKind::peer);
  EXPECT_THAT(text, AllOf(HasSubstr("ended after 4200 of"), HasSubstr("tried 3 times")));
  std::tie(text, kind) = says({.instead = good + "x"});
  EXPECT_THAT(text, AllOf(HasSubstr("more bytes"), HasSubstr("tried 3 times")));
  std::tie(text, kind) = says({.bytes = 0, .answer = {End::never, "HTTP 404"}});
  EXPECT_EQ(kind, ErrorKind::input);
  EXPECT_THAT(text, AllOf(HasSubstr("HTTP 404"), HasSubstr("tried 1 time")));
  std::tie(text, kind) = says({.bytes = 0, .answer = {End::again, "HTTP 503"}});
  EXPECT_EQ(kind, ErrorKind::peer);
  EXPECT_THAT(text, AllOf(HasSubstr("HTTP 503"), HasSubstr("tried 3 times")));
  EXPECT_EQ(count(place.set, ".peal"), 0);
}

TEST(Cache, ABrokenFileInTheCacheIsFetchedAnew) {
  const Place place;
  const auto damage = [&](const std::string& name,
                          const std::function<void(std::string&)>& change) {
    std::string bytes = read_file(place.set / name);
    change(bytes);
    std::ofstream(place.set / name, std::ios::binary) << bytes;
  };
  fetch_all(place, folder_of(place), place.options());
  damage(place.files[1], [](std::string& b) { b.resize(4100); });
  damage(place.files[2], [](std::string& b) { b[50] ^= 1; });
  damage(place.files[3], [](std::string& b) { b[4165] ^= 1; });  // a label
  const auto log = std::make_shared<Log>();
  expect_records(*fetch_all(place, faulty(place, log), place.options()));
  EXPECT_EQ(log->tries.size(), 3u);
  // A record's byte is looked at only when the job asks for it.
  damage(place.files[4], [](std::string& b) { b[4100] ^= 1; });
  const auto trusting = std::make_shared<Log>();
  fetch_all(place, faulty(place, trusting), place.options());
  EXPECT_EQ(trusting->tries.size(), 0u);
  CachedShardsOptions careful = place.options();
  careful.cache.verify = true;
  expect_records(*fetch_all(place, faulty(place, log), careful));
  EXPECT_EQ(log->tries.size(), 4u);
}

// As ranks of one host do, or runs that started at the same time.
TEST(Cache, ManyFetchEachShardOnce) {
  const Place place;
  const auto log = std::make_shared<Log>();
  // The first waits with its shard until a second rank fetches, too.
  std::atomic<int> fetching = 0;
  const auto slowly = faulty(place, log, [&](const Try&) {
    ++fetching;
    wait_until([&] { return fetching >= 2; });
    return Fault{};
  });
  std::vector<std::thread> ranks;
  std::atomic<int> fetchers = 0;
  for (int r = 0; r < 4; ++r) {
    ranks.emplace_back([&] {
      const auto data = fetch_all(place, slowly, place.options());
      expect_records(*data);
      fetchers += data->arrival().fetched > 0 ? 1 : 0;
    });
  }
  for (std::thread& rank : ranks) rank.join();
  EXPECT_EQ(bytes_of(*log), kShards * place.shard_bytes);
  EXPECT_GE(fetchers, 2) << "they do not share the work";
}

TEST(Cache, WhoDiesLeavesItToOthersToGoOn) {
  const Place place;
  const auto log = std::make_shared<Log>();
  {
    std::atomic<bool> there = false;
    const MakeSource hangs = [&](const std::function<bool()>& stopped) {
      const auto until_it_dies = [&there, stopped](const Try& t) {
        if (t.number == 2) {
          there = true;
          wait_until(stopped);
        }
        return Fault{.bytes = 1000, .answer = {End::again, "lost"}};
      };
      return std::make_unique<Faulty>(place.folder / "shards", until_it_dies, log);
    };
    const auto first = open_cached_shards(hangs, place.manifest, place.options());
    want_all(*first);
    wait_until([&] { return there.load(); });
    // Destroyed while it fetches: what came stays under the name of a part.
  }
  EXPECT_EQ(count(place.set, ".peal"), 0);
  EXPECT_EQ(count(place.set, ".part"), 1);
  const auto data = fetch_all(place, folder_of(place), place.options());
  expect_records(*data);
  EXPECT_LT(data->arrival().fetched, kShards * place.shard_bytes);
  EXPECT_EQ(count(place.set, ".part"), 0);
}

TEST(Cache, AFetcherThatStandsStillIsNamed) {
  const Place place;
  CachedShardsOptions options = place.options();
  options.cache.wait_seconds = 0.2;
  fetch_all(place, folder_of(place), options);
  fs::remove(place.set / place.files[7]);
  ByteLocks other(place.set / "locks");
  ASSERT_TRUE(other.try_exclusive(14));
  const auto [text, kind] = error_of([&] { fetch_all(place, folder_of(place), options); });
  EXPECT_EQ(kind, ErrorKind::peer);
  EXPECT_THAT(text, AllOf(HasSubstr(place.files[7]), HasSubstr("has not got on for 0.2 s")));
}

TEST(Cache, OldestShardsMakeRoom) {
  const Place place;
  CachedShardsOptions options = place.options();
  options.window_shards = 2;
  options.cache.limit = 5 * place.shard_bytes;
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
    EXPECT_LE(count(place.set, ".peal") + count(place.set, ".part"), 5);
  }
}

TEST(Cache, ShardsInUseStay) {
  const Place place;
  CachedShardsOptions options = place.options();
  options.window_shards = 2;
  options.cache.limit = 4 * place.shard_bytes;
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
TEST(Cache, RoomIsTakenInOrder) {
  const Place place;
  CachedShardsOptions options = place.options();
  options.window_shards = 2;
  options.cache.limit = 5 * place.shard_bytes;
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
TEST(Cache, ReadersInStepNeverStarve) {
  const Place place;
  CachedShardsOptions options = place.options();
  options.window_shards = 2;
  options.cache.limit = 4 * place.shard_bytes;
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
TEST(Cache, RoomForLaterMayBeLateForLong) {
  const Place place;
  CachedShardsOptions options = place.options();
  options.window_shards = 1;
  options.cache.limit = 2 * place.shard_bytes;
  options.cache.wait_seconds = 1;
  auto user = open_cached_shards(folder_of(place), place.manifest, options);
  user->want(std::vector<std::int64_t>{0, 1}, 2);
  await(*user);
  const auto other = open_cached_shards(folder_of(place), place.manifest, options);
  other->want(std::vector<std::int64_t>{0, 5}, 1);
  await(*other);
  std::this_thread::sleep_for(std::chrono::milliseconds(1300));
  other->want(std::vector<std::int64_t>{5}, 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // it asks, and there is no room
  user.reset();
  EXPECT_EQ(other->label(50), 50);
}

TEST(Cache, RoomIsLookedForFirst) {
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

TEST(Cache, TwoSetsShareOneCache) {
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

TEST(Cache, StoppedWhileItWaits) {
  const Place place;
  std::atomic<bool> stop = false;
  CachedShardsOptions options = place.options();
  options.cache.stopped = [&] { return stop.load(); };
  options.retries = {.tries = 1000, .backoff_seconds = 20};
  const auto never = faulty(place, std::make_shared<Log>(), [](const Try&) {
    return Fault{.bytes = 0, .answer = {End::again, "nobody answers"}};
  });
  const auto data = open_cached_shards(never, place.manifest, options);
  want_all(*data);
  stop = true;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(error_of([&] { await(*data); }).first,
              HasSubstr("stopped before all of it had come"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(15));  // of 20 a pause
}

TEST(Cache, ManifestsAreTriedAgainAndRefused) {
  const Place place;
  const RetryOptions retries{.tries = 4, .backoff_seconds = 0.001};
  const auto says = [&](const std::function<Fault(const Try&)>& fault) {
    Faulty source(place.folder / "shards", fault, std::make_shared<Log>());
    return fetch_manifest(source, retries, {});
  };
  EXPECT_EQ(says({}), place.manifest);
  EXPECT_EQ(says([](const Try& t) {
              return t.number < 3 ? Fault{.answer = {End::again, "HTTP 500"}} : Fault{};
            }),
            place.manifest);
  EXPECT_EQ(says([](const Try& t) { return t.number < 4 ? Fault{.bytes = 200} : Fault{}; }),
            place.manifest);
  const auto [text, kind] = error_of([&] {
    says([](const Try&) { return Fault{.instead = "<!DOCTYPE html><title>Log in</title>"}; });
  });
  EXPECT_EQ(kind, ErrorKind::input);
  EXPECT_THAT(text, AllOf(HasSubstr("test://manifest.textproto"), HasSubstr("no manifest"),
                          HasSubstr("<!DOCTYPE"), HasSubstr("tried 4 times")));
}

TEST(Cache, LocksStandBetweenWhoeverOpenedThem) {
  const Folder folder;
  ByteLocks a(folder / "locks"), b(folder / "locks");
  EXPECT_TRUE(a.try_shared(3));
  EXPECT_TRUE(b.try_shared(3));
  EXPECT_FALSE(a.try_exclusive(3));
  b.unlock(3);
  EXPECT_TRUE(a.try_exclusive(3));
  EXPECT_FALSE(b.try_shared(3));
  EXPECT_TRUE(b.try_exclusive(4));
  {
    ByteLocks gone(folder / "locks");
    EXPECT_TRUE(gone.try_exclusive(5));
  }
  EXPECT_TRUE(b.try_exclusive(5));
}

TEST(Cache, ContentRange) {
  const auto parsed = parse_content_range("bytes 500-999/1234");
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->first, 500u);
  EXPECT_EQ(parsed->last, 999u);
  EXPECT_EQ(parsed->total, 1234u);
  EXPECT_EQ(parse_content_range("bytes 0-0/*")->total, 0u);
  for (const char* wrong : {"", "bytes", "bytes */1234", "bytes 5-4/10", "bytes 0-10/10",
                            "bytes 0-9/10 ", "items 0-9/10", "bytes -9/10", "bytes 0-9",
                            "bytes 0-9/", "bytes +1-9/10", "bytes 0-9/99999999999999999999"}) {
    EXPECT_FALSE(parse_content_range(wrong)) << wrong;
  }
}

}  // namespace
}  // namespace peal
