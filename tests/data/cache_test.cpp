// Shards that come to a host's own disk: what is kept, tried again, refused and shared. The sources
// here are folders, and sources that fail as they are told.
#include <thread>

#include "core/base/checksum.h"
#include "tests/data/cache_support.h"

namespace peal::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using End = HttpAnswer::End;

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
}  // namespace peal::testing
