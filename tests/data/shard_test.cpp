#include "core/data/shard.h"

#include <algorithm>
#include <limits>

#include "core/base/checksum.h"
#include "core/data/shard_format.h"
#include "tests/data/support.h"

namespace peal {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::counting_dataset;
using testing::Folder;
using ::testing::HasSubstr;
using testing::input_error;

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  return files;
}

void expect_same(const Dataset& a, const Dataset& b) {
  ASSERT_EQ(a.size(), b.size());
  ASSERT_EQ(a.record_shape(), b.record_shape());
  ASSERT_EQ(a.record_dtype(), b.record_dtype());
  const auto bytes = static_cast<std::size_t>(a.record_shape().numel()) * size_of(a.record_dtype());
  for (std::int64_t i = 0; i < a.size(); ++i) {
    ASSERT_EQ(std::memcmp(a.record(i), b.record(i), bytes), 0) << i;
    ASSERT_EQ(a.label(i), b.label(i)) << i;
  }
}

TEST(Shard, RoundTripByCount) {
  const auto data = counting_dataset(101);
  for (const std::int64_t count : {1, 2, 7, 101}) {
    const Folder folder;
    write_shards(*data, folder.path(), {.count = count});
    expect_same(*data, *open_shards(folder.path()));
    EXPECT_EQ(verify_shards(folder.path()), 101);
    const auto files = files_in(folder.path());
    const std::string count_text = cat(std::string(count < 10 ? 4 : 2, '0'), count);
    ASSERT_EQ(files.size(), static_cast<std::size_t>(count) + 1);  // no .tmp left
    EXPECT_EQ(files[0].filename(), "manifest.textproto");
    for (std::size_t i = 1; i < files.size(); ++i) {
      EXPECT_TRUE(files[i].filename().string().ends_with(cat(i - 1, "-of-", count_text, ".peal")));
      const ShardInfo info = inspect_shard(files[i]);
      EXPECT_NEAR(static_cast<double>(info.records), 101.0 / static_cast<double>(count), 1);
      EXPECT_EQ(info.bytes, fs::file_size(files[i]));
      EXPECT_EQ(info.record_shape, (Shape{2, 3}));
      EXPECT_TRUE(is_shard(files[i]));
    }
    EXPECT_FALSE(is_shard(files[0]));
  }
}

TEST(Shard, RoundTripByBytes) {
  const auto data = counting_dataset(5000);
  for (const std::int64_t bytes : {6000, 10000, 50000, 1 << 20}) {
    const Folder folder;
    write_shards(*data, folder.path(), {.bytes_per_shard = bytes});
    expect_same(*data, *open_shards(folder.path()));
    std::uint64_t largest = 0;
    for (const auto& file : files_in(folder.path())) {
      if (is_shard(file)) largest = std::max<std::uint64_t>(largest, fs::file_size(file));
    }
    EXPECT_LE(largest, static_cast<std::uint64_t>(bytes));
    EXPECT_GT(2 * largest, std::min<std::uint64_t>(static_cast<std::uint64_t>(bytes), 90000));
  }
}

TEST(Shard, FloatsAndLabelsAreExact) {
  const auto data = testing::float_dataset({3}, {0.1f, -0.0f, 1e-42f, 3e38f, 5, 6}, {0.3f, -7});
  const Folder folder;
  write_shards(*data, folder.path(), {.count = 2});
  expect_same(*data, *open_shards(folder.path()));
}

TEST(Shard, RealSetSurvives) {
  const auto mnist = testing::shared_data("mnist");
  if (!fs::exists(mnist)) return;  // shared_data has failed the test
  const auto data =
      open_idx(mnist / "t10k-images-idx3-ubyte.gz", mnist / "t10k-labels-idx1-ubyte.gz");
  const Folder folder;
  write_shards(*data, folder.path(), {.count = 8});
  expect_same(*data, *open_shards(folder.path()));
  EXPECT_EQ(verify_shards(folder.path()), 10000);
}

TEST(Shard, WrongOptions) {
  const auto data = counting_dataset(10);
  const Folder folder;
  const auto error = [&](std::int64_t count, std::int64_t bytes) {
    return input_error(
        [&] { write_shards(*data, folder.path(), {.count = count, .bytes_per_shard = bytes}); });
  };
  EXPECT_THAT(error(0, 0), HasSubstr("exactly one"));
  EXPECT_THAT(error(2, 5000), HasSubstr("exactly one"));
  EXPECT_THAT(error(-1, 0), HasSubstr("exactly one"));
  EXPECT_THAT(error(11, 0), AllOf(HasSubstr("11 shards"), HasSubstr("1 to 10")));
  EXPECT_THAT(error(0, 100), AllOf(HasSubstr("100"), HasSubstr("one record")));
  EXPECT_TRUE(files_in(folder.path()).empty());
}

TEST(Shard, RefusesAFolderThatHoldsAManifest) {
  const Folder folder;
  write_shards(*counting_dataset(10), folder.path(), {.count = 2});
  EXPECT_THAT(input_error([&] { write_shards(*counting_dataset(5), folder.path(), {.count = 1}); }),
              AllOf(HasSubstr("manifest.textproto"), HasSubstr("exists")));
  EXPECT_EQ(verify_shards(folder.path()), 10);
}

TEST(Shard, MissingFiles) {
  const Folder folder;
  EXPECT_THAT(input_error([&] { open_shards(folder.path()); }),
              AllOf(HasSubstr("manifest.textproto"), HasSubstr("is missing")));
  write_shards(*counting_dataset(10), folder.path(), {.count = 2});
  fs::remove(folder / "shard-00001-of-00002.peal");
  EXPECT_THAT(input_error([&] { open_shards(folder.path()); }),
              AllOf(HasSubstr("shard-00001-of-00002.peal"), HasSubstr("No such file")));
  EXPECT_THAT(input_error([&] { inspect_shard(folder / "none"); }), HasSubstr("No such file"));
}

// Any byte of any shard: verify finds it and names the file and what is hit.
TEST(Shard, VerifyFindsEveryFlippedByte) {
  const Folder folder;
  write_shards(*counting_dataset(20), folder.path(), {.count = 2});
  const fs::path path = folder / "shard-00001-of-00002.peal";
  const std::string good = read_file(path);
  for (std::size_t i = 0; i < good.size(); i += i < 200 || i >= 4080 ? 1 : 37) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 0x10);
    folder.write(path.filename().string(), bad);
    const std::string text = input_error([&] { verify_shards(folder.path()); });
    EXPECT_THAT(text, HasSubstr(path.string())) << i;
    // 10 records of 6 bytes at 4096, labels at 4160, index at 4224.
    EXPECT_THAT(text, i < 8      ? HasSubstr("no shard file")
                      : i < 4096 ? HasSubstr("header is corrupt")
                      : i < 4156 ? HasSubstr("section records")
                      : i < 4160 ? HasSubstr("padding")
                      : i < 4200 ? HasSubstr("section labels")
                      : i < 4224 ? HasSubstr("padding")
                                 : HasSubstr("section index"))
        << i;
  }
}

TEST(Shard, OpeningFindsBadLabelsAndEveryTruncation) {
  const Folder folder;
  write_shards(*counting_dataset(20), folder.path(), {.count = 2});
  const std::string name = "shard-00000-of-00002.peal";
  const std::string good = read_file(folder / name);
  std::string bad = good;
  bad[4170] ^= 1;
  folder.write(name, bad);
  EXPECT_THAT(input_error([&] { open_shards(folder.path()); }), HasSubstr("section labels"));
  for (std::size_t n = 0; n <= good.size(); n += n < 8 || n > 4090 ? 1 : 97) {
    if (n == good.size()) break;
    folder.write(name, good.substr(0, n));
    EXPECT_THAT(input_error([&] { open_shards(folder.path()); }), HasSubstr(name)) << n;
  }
  folder.write(name, good + "x");
  EXPECT_THAT(input_error([&] { open_shards(folder.path()); }),
              AllOf(HasSubstr(name), HasSubstr(cat(good.size() + 1, " bytes"))));
}

TEST(Shard, AShardOfAnotherSetIsFound) {
  const Folder a, b;
  write_shards(*counting_dataset(20), a.path(), {.count = 2});
  std::vector<float> other(20);
  std::vector<std::byte> bytes(120);
  write_shards(*memory_dataset("other", {2, 3}, DType::u8, bytes, other), b.path(), {.count = 2});
  const std::string name = "shard-00001-of-00002.peal";
  fs::copy_file(b / name, a / name, fs::copy_options::overwrite_existing);
  EXPECT_THAT(input_error([&] { open_shards(a.path()); }),
              AllOf(HasSubstr(name), HasSubstr("another file than the manifest's")));
}

TEST(Shard, LabelsThatAreNoNumbersAreRefused) {
  const Folder folder;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  write_shards(*testing::float_dataset({1}, {1, 2}, {0, nan}), folder.path(), {.count = 1});
  EXPECT_THAT(input_error([&] { open_shards(folder.path()); }),
              HasSubstr("record 1 has label nan"));
}

// The header with one field changed and its checksum made good again.
TEST(Shard, HostileHeaders) {
  std::vector<std::byte> good(5000);
  ShardHeader header = shard_layout({2, 3}, DType::u8, 10, "test");
  good.resize(header.file_bytes);
  const auto error = [&](std::size_t offset, std::uint64_t value, std::size_t bytes) {
    auto head = format_shard_header(header);
    std::memcpy(head.data() + offset, &value, bytes);
    const std::uint64_t sum = xxh64(head.data(), kShardHeaderBytes - 8);
    std::memcpy(head.data() + kShardHeaderBytes - 8, &sum, 8);
    std::vector<std::byte> file = good;
    std::copy(head.begin(), head.end(), file.begin());
    return input_error([&] { parse_shard_header(file, "test"); });
  };
  EXPECT_THAT(error(8, 2, 4), HasSubstr("format version 2; this program reads 1"));
  EXPECT_THAT(error(12, 3, 4), HasSubstr("dtype 3"));
  EXPECT_THAT(error(16, 7, 4), HasSubstr("rank 7"));
  EXPECT_THAT(error(24, 0, 8), HasSubstr("dimension 0"));
  EXPECT_THAT(error(24, ~0ull, 8), HasSubstr("dimension -1"));
  EXPECT_THAT(error(24, 1ull << 62, 8), HasSubstr("more bytes than any file"));
  EXPECT_THAT(error(72, 0, 8), HasSubstr("0 records"));
  EXPECT_THAT(error(72, ~0ull >> 1, 8), HasSubstr("more bytes than any file"));
  EXPECT_THAT(error(72, 11, 8), HasSubstr("section records"));
  EXPECT_THAT(error(80, 1ull << 40, 8), HasSubstr("section records"));
  EXPECT_THAT(error(136, 8, 8), HasSubstr("section index"));
  EXPECT_THAT(error(152, 1, 8), HasSubstr("announces 1"));
}

const std::string kManifest =
    "format: 1\nrecords: 20\nrecord_shape: [2, 3]\ndtype: \"u8\"\n"
    "shard { file: \"a\" records: 12 bytes: 5 xxh64: \"0123456789abcdef\" }\n"
    "shard { file: \"b\" records: 8 bytes: 6 xxh64: \"ffffffffffffffff\" }\n";

TEST(ShardManifest, RoundTrip) {
  const ShardManifest manifest = parse_shard_manifest(kManifest, "m");
  EXPECT_EQ(manifest.records, 20);
  EXPECT_EQ(manifest.record_shape, (Shape{2, 3}));
  ASSERT_EQ(manifest.shards.size(), 2u);
  EXPECT_EQ(manifest.shards[0].xxh64, 0x0123456789abcdefu);
  EXPECT_EQ(format_shard_manifest(manifest), kManifest);
  EXPECT_EQ(parse_shard_manifest("# a comment\n" + kManifest, "m").records, 20);
}

TEST(ShardManifest, Garbage) {
  const auto changed = [](const std::string& from, const std::string& to) {
    std::string text = kManifest;
    text.replace(text.find(from), from.size(), to);
    return input_error([&] { parse_shard_manifest(text, "m"); });
  };
  EXPECT_THAT(input_error([] { parse_shard_manifest("", "m"); }), HasSubstr("format is missing"));
  EXPECT_THAT(input_error([] {
                parse_shard_manifest(
                    "\x7f"
                    "ELF",
                    "m");
              }),
              HasSubstr("m:1"));
  EXPECT_THAT(changed("format: 1", "format: 2"), HasSubstr("this program reads 1"));
  EXPECT_THAT(changed("records: 20", "recrods: 20"),
              AllOf(HasSubstr("m:2: unknown field recrods"), HasSubstr("record_shape")));
  EXPECT_THAT(changed("records: 20", "records: 20 records: 20"), HasSubstr("records twice"));
  EXPECT_THAT(changed("records: 20", "records: -20"), HasSubstr("whole number"));
  EXPECT_THAT(changed("records: 20", "records: 99999999999999999999"), HasSubstr("whole number"));
  EXPECT_THAT(changed("records: 20", "records: 21"), HasSubstr("hold 20 records"));
  EXPECT_THAT(changed("records: 20", "records: 19"), HasSubstr("more than the 19"));
  EXPECT_THAT(changed("[2, 3]", "[2, 3"), HasSubstr("expected ']'"));
  EXPECT_THAT(changed("[2, 3]", "[2, 0]"), HasSubstr("above 0"));
  EXPECT_THAT(changed("[2, 3]", "[1,1,1,1,1,1,1]"), HasSubstr("up to 6"));
  EXPECT_THAT(changed("\"u8\"", "\"i64\""), HasSubstr("dtype is"));
  EXPECT_THAT(changed("\"a\"", "\"../a\""), HasSubstr("own folder"));
  EXPECT_THAT(changed("\"a\"", "\"..\""), HasSubstr("own folder"));
  EXPECT_THAT(changed("\"a\"", "\"b\""), HasSubstr("b twice"));
  EXPECT_THAT(changed("\"a\"", "\"a"), HasSubstr("m:5"));
  EXPECT_THAT(changed(" bytes: 5", ""), HasSubstr("bytes is missing"));
  EXPECT_THAT(changed("0123456789abcdef", "0123"), HasSubstr("16 hexadecimal"));
  for (std::size_t n = 0; n + 1 < kManifest.size(); ++n) {
    EXPECT_NE(input_error([&] { parse_shard_manifest(kManifest.substr(0, n), "m"); }), "") << n;
  }
}

// ---- Shard by shard ----

class ShardByShard : public ::testing::Test {
 protected:
  static bool always(std::int64_t) { return true; }

  Folder folder_;
  std::shared_ptr<const Dataset> data_ = counting_dataset(1000);
  std::unique_ptr<RecordSource> source_ = dataset_source(data_, {});
};

TEST_F(ShardByShard, APlanHoldsEveryRecordOnceButThoseSkipped) {
  const std::vector<std::int64_t> skipped = {0, 1, 5, 500, 998, 999};
  for (const std::int64_t count : {1, 3, 7, 994}) {
    const ShardPlan plan(*source_, 1000, skipped, {.count = count});
    EXPECT_EQ(plan.records(), 994);
    std::vector<std::int64_t> found;
    for (std::int64_t shard = 0; shard < count; ++shard) {
      EXPECT_EQ(plan.first(shard), static_cast<std::int64_t>(found.size()));
      EXPECT_LE(std::abs(plan.records(shard) - 994 / count), 1);
      for (std::int64_t i = 0; i < plan.records(shard); ++i) {
        found.push_back(plan.source_record(plan.first(shard) + i));
      }
    }
    std::vector<std::int64_t> expected;
    for (std::int64_t i = 0; i < 1000; ++i) {
      if (std::find(skipped.begin(), skipped.end(), i) == skipped.end()) expected.push_back(i);
    }
    EXPECT_EQ(found, expected);
  }
  EXPECT_THAT(input_error([&] {
                ShardPlan(*source_, 6, {0, 1, 2, 3, 4, 5}, {.count = 1});
              }),
              HasSubstr("not skipped"));
}

TEST_F(ShardByShard, StoppedItLeavesNothing) {
  const ShardPlan plan(*source_, 1000, {}, {.count = 2});
  for (const std::int64_t stop : {0, 1, 499}) {
    EXPECT_FALSE(write_shard(*source_, plan, 1, folder_.path(),
                             [&](std::int64_t done) { return done < stop; }));
    EXPECT_TRUE(std::filesystem::is_empty(folder_.path()));
  }
}

TEST_F(ShardByShard, AWholeOneIsFoundAndNoOther) {
  const ShardPlan plan(*source_, 1000, {}, {.count = 2});
  EXPECT_FALSE(find_shard(plan, 0, folder_.path()));
  const auto sum = write_shard(*source_, plan, 0, folder_.path(), always);
  ASSERT_TRUE(sum);
  EXPECT_EQ(find_shard(plan, 0, folder_.path()), sum);
  const auto path = folder_ / plan.file(0);
  const std::string whole = read_file(path);
  // Cut short, one byte of the header, one too long, a folder; of another plan.
  for (const std::string& other :
       {whole.substr(0, whole.size() - 1), "x" + whole.substr(1), whole + "x", std::string()}) {
    folder_.write(plan.file(0), other);
    EXPECT_FALSE(find_shard(plan, 0, folder_.path()));
  }
  folder_.write(plan.file(0), whole);
  EXPECT_EQ(find_shard(plan, 0, folder_.path()), sum);
  const ShardPlan other(*source_, 998, {}, {.count = 2});
  EXPECT_FALSE(find_shard(other, 0, folder_.path()));
}

TEST_F(ShardByShard, InAnyOrderTheSameAsInOneGo) {
  Folder whole;
  write_shards(*data_, whole.path(), {.count = 3});
  const ShardPlan plan(*source_, 1000, {}, {.count = 3});
  std::vector<std::uint64_t> sums(3);
  for (const std::int64_t i : {2, 0, 1}) {
    sums[static_cast<std::size_t>(i)] = *write_shard(*source_, plan, i, folder_.path(), always);
  }
  EXPECT_FALSE(has_shard_manifest(folder_.path()));
  EXPECT_TRUE(has_shards(folder_.path()));
  write_shard_manifest(plan, sums, folder_.path());
  for (const std::string& name : {plan.file(0), plan.file(2), std::string("manifest.textproto")}) {
    EXPECT_EQ(read_file(folder_ / name), read_file(whole / name)) << name;
  }
  folder_.write("notes", "");
  remove_shards(folder_.path());
  EXPECT_FALSE(has_shards(folder_.path()) || has_shard_manifest(folder_.path()));
  EXPECT_TRUE(std::filesystem::exists(folder_ / "notes"));
}

}  // namespace
}  // namespace peal
