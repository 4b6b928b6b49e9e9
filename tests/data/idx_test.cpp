#include "core/data/idx.h"

#include <cmath>
#include <limits>

#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using testing::Folder;
using testing::gzip;
using ::testing::HasSubstr;
using testing::input_error;
using testing::shared_data;

std::string header(int type, const std::vector<std::uint32_t>& dims) {
  std::string bytes = {0, 0, static_cast<char>(type), static_cast<char>(dims.size())};
  for (const std::uint32_t dim : dims) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(dim >> shift);
  }
  return bytes;
}

template <typename T>
std::string big_endian(const std::vector<T>& values) {
  std::string bytes;
  for (const T& value : values) {
    const char* p = reinterpret_cast<const char*>(&value);
    for (std::size_t i = sizeof value; i > 0; --i) bytes += p[i - 1];
  }
  return bytes;
}

const std::string kImages = header(8, {3, 2, 2}) + std::string("abcdefghijkl");
const std::string kLabels = header(8, {3}) + std::string("\x00\x02\x01", 3);

// Opens the pair from files of these contents.
std::unique_ptr<Dataset> open(const std::string& images, const std::string& labels) {
  const Folder folder;
  return open_idx(folder.write("images", images), folder.write("labels", labels));
}

std::string error_of(const std::string& images, const std::string& labels) {
  return input_error([&] { open(images, labels); });
}

void check_set(const std::string& name, std::int64_t test_sum, int first_label) {
  const auto folder = shared_data(name);
  if (!std::filesystem::exists(folder)) return;  // shared_data has failed the test
  const auto train =
      open_idx(folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte.gz");
  const auto test =
      open_idx(folder / "t10k-images-idx3-ubyte.gz", folder / "t10k-labels-idx1-ubyte.gz");
  EXPECT_EQ(train->size(), 60000);
  ASSERT_EQ(test->size(), 10000);
  ASSERT_EQ(train->record_shape(), (Shape{28, 28}));
  EXPECT_EQ(train->record_dtype(), DType::u8);
  EXPECT_EQ(train->label(0), first_label);
  check_class_labels(*train, 10);
  const auto* bytes = static_cast<const std::uint8_t*>(test->record(0));
  std::int64_t sum = 0;
  for (std::int64_t i = 0; i < 10000 * 784; ++i) sum += bytes[i];
  EXPECT_EQ(sum, test_sum);
}

TEST(Idx, Mnist) {
  check_set("mnist", 264923200, 5);
}
TEST(Idx, FashionMnist) {
  check_set("fashion-mnist", 573469082, 9);
}

TEST(Idx, PlainAndGzipHoldTheSame) {
  for (const bool packed : {false, true}) {
    const auto data = open(packed ? gzip(kImages) : kImages, packed ? gzip(kLabels) : kLabels);
    ASSERT_EQ(data->size(), 3);
    EXPECT_EQ(data->record_shape(), (Shape{2, 2}));
    EXPECT_EQ(std::memcmp(data->record(1), "efgh", 4), 0);
    EXPECT_EQ(data->label(0), 0);
    EXPECT_EQ(data->label(1), 2);
    EXPECT_EQ(data->label(2), 1);
  }
}

TEST(Idx, SeveralGzipMembersAreOneStream) {
  const auto data = open(gzip(kImages.substr(0, 7)) + gzip(kImages.substr(7)), kLabels);
  EXPECT_EQ(std::memcmp(data->record(2), "ijkl", 4), 0);
}

TEST(Idx, OtherTypesBecomeFloats) {
  const auto first = [](const std::string& images) {
    const auto data = open(images, header(8, {2}) + std::string(2, '\0'));
    EXPECT_EQ(data->record_dtype(), DType::f32);
    EXPECT_EQ(data->record_shape(), Shape{1});
    const auto value = [&](int i) { return *static_cast<const float*>(data->record(i)); };
    return std::pair(value(0), value(1));
  };
  using Pair = std::pair<float, float>;
  EXPECT_EQ(first(header(9, {2}) + big_endian<std::int8_t>({-128, 127})), Pair(-128, 127));
  EXPECT_EQ(first(header(11, {2}) + big_endian<std::int16_t>({-32768, 258})), Pair(-32768, 258));
  EXPECT_EQ(first(header(12, {2}) + big_endian<std::int32_t>({-65537, 1 << 20})),
            Pair(-65537, 1 << 20));
  EXPECT_EQ(first(header(13, {2}) + big_endian<float>({1.5f, -3e-39f})), Pair(1.5f, -3e-39f));
  EXPECT_EQ(first(header(14, {2}) + big_endian<double>({0.1, 1e300})),
            Pair(0.1f, std::numeric_limits<float>::infinity()));
}

TEST(Idx, MissingFileIsNamed) {
  const Folder folder;
  const auto labels = folder.write("labels", kLabels);
  EXPECT_THAT(input_error([&] { open_idx(folder / "none", labels); }),
              AllOf(HasSubstr((folder / "none").string()), HasSubstr("No such file")));
}

TEST(Idx, EveryTruncationIsFound) {
  for (std::size_t n = 0; n < kImages.size(); ++n) {
    const std::string text = error_of(kImages.substr(0, n), kLabels);
    EXPECT_THAT(text, HasSubstr("images")) << n;
    EXPECT_THAT(text, n == 0 ? HasSubstr("is empty")
                      : n < 16
                          ? HasSubstr(cat("ends at offset ", n))
                          : HasSubstr(cat("announce 12 bytes from offset 16; found ", n - 16)));
  }
}

TEST(Idx, EveryTruncationOfGzipIsFound) {
  const std::string packed = gzip(kImages);
  for (std::size_t n = 2; n < packed.size(); ++n) {
    EXPECT_THAT(error_of(packed.substr(0, n), kLabels),
                HasSubstr(cat("gzip data end early, at offset ", n)));
  }
  for (std::size_t n = 1; n < kImages.size(); ++n) {
    EXPECT_NE(error_of(gzip(kImages.substr(0, n)), kLabels), "") << n;
  }
}

// A bit of no meaning (time stamp, hints, the bits that fill the last byte) changes nothing; every
// other one is found.
TEST(Idx, EveryFlippedBitOfGzipIsFound) {
  const std::string packed = gzip(kImages);
  std::size_t harmless = 0;
  for (std::size_t bit = 0; bit < packed.size() * 8; ++bit) {
    std::string bad = packed;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ (1 << bit % 8));
    try {
      const auto data = open(bad, kLabels);
      EXPECT_EQ(std::memcmp(data->record(0), "abcdefghijkl", 12), 0) << bit;
      ++harmless;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input) << bit;
    }
  }
  EXPECT_LE(harmless, 6 * 8 + 1 + 7);
}

TEST(Idx, WrongMagicTypeAndRank) {
  EXPECT_THAT(error_of("PK\x03\x04", kLabels),
              AllOf(HasSubstr("offset 0"), HasSubstr("50 4b 03 04")));
  EXPECT_THAT(error_of(header(7, {1}) + "x", kLabels),
              AllOf(HasSubstr("offset 2: element type 07"), HasSubstr("08 (u8)")));
  EXPECT_THAT(error_of(header(8, {}), kLabels),
              AllOf(HasSubstr("offset 3: rank 0"), HasSubstr("1 to 7")));
  EXPECT_THAT(error_of(header(8, {1, 1, 1, 1, 1, 1, 1, 1}) + "x", kLabels), HasSubstr("rank 8"));
}

TEST(Idx, NoRecords) {
  EXPECT_THAT(error_of(header(8, {0, 2, 2}), header(8, {0})),
              AllOf(HasSubstr("offset 4"), HasSubstr("no records")));
  EXPECT_THAT(error_of(header(8, {3, 0, 2}), kLabels), HasSubstr("offset 8: dimension 1 is 0"));
}

TEST(Idx, TrailingBytes) {
  EXPECT_THAT(error_of(kImages + "x", kLabels),
              HasSubstr("announce 12 bytes from offset 16; found 13"));
  EXPECT_THAT(error_of(gzip(kImages + "x"), kLabels), HasSubstr("found more"));
  EXPECT_THAT(error_of(gzip(kImages) + "xyz", kLabels), HasSubstr("3 bytes behind the end"));
}

TEST(Idx, MismatchingCounts) {
  EXPECT_THAT(error_of(kImages, header(8, {2}) + std::string(2, '\0')),
              AllOf(HasSubstr("labels: holds 2 labels"), HasSubstr("holds 3 records")));
  EXPECT_THAT(error_of(kImages, kImages), HasSubstr("one number a record"));
}

TEST(Idx, HostileSizesTakeNoMemory) {
  const std::uint32_t most = 0xFFFFFFFF;
  EXPECT_THAT(error_of(header(14, {most, most, most}), kLabels), HasSubstr("more bytes than any"));
  EXPECT_THAT(error_of(header(8, {most, 1000}), kLabels), HasSubstr("found 0"));
  EXPECT_THAT(error_of(gzip(header(8, {most, 1000})), kLabels), HasSubstr("too small to hold"));
  // A bomb: far more behind the header than it announces.
  EXPECT_THAT(error_of(gzip(kImages + std::string(50 << 20, '\0')), kLabels),
              HasSubstr("found more"));
}

TEST(Idx, LabelsThatAreNoNumbers) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(error_of(kImages, header(13, {3}) + big_endian<float>({0, nan, 1})),
              AllOf(HasSubstr("labels"), HasSubstr("label 1 is nan")));
}

TEST(Idx, LabelsOutOfRange) {
  const auto data = open(kImages, kLabels);
  check_class_labels(*data, 3);
  EXPECT_THAT(input_error([&] { check_class_labels(*data, 2); }),
              AllOf(HasSubstr("images: record 1 has label 2"), HasSubstr("0 to 1")));
  const auto half = testing::float_dataset(Shape{1}, {0, 0}, {1, 0.5f});
  EXPECT_THAT(input_error([&] { check_class_labels(*half, 2); }), HasSubstr("record 1"));
  const auto negative = testing::float_dataset(Shape{1}, {0, 0}, {-1, 0});
  EXPECT_THAT(input_error([&] { check_class_labels(*negative, 2); }), HasSubstr("record 0"));
}

TEST(Dataset, LimitAndMemory) {
  EXPECT_EQ(limit_records(testing::counting_dataset(5), 3)->size(), 3);
  EXPECT_EQ(limit_records(testing::counting_dataset(5), 0)->size(), 5);
  EXPECT_EQ(limit_records(testing::counting_dataset(5), 9)->size(), 5);
  EXPECT_THAT(input_error([] { limit_records(testing::counting_dataset(5), -1); }),
              HasSubstr("limit -1"));
  EXPECT_THAT(input_error([] {
                memory_dataset("made", Shape{2}, DType::f32, std::vector<std::byte>(9), {1});
              }),
              AllOf(HasSubstr("made"), HasSubstr("holds 9 bytes"), HasSubstr("take 8")));
  EXPECT_THAT(input_error([] { memory_dataset("made", Shape{2}, DType::i64, {}, {1}); }),
              HasSubstr("i64"));
}

}  // namespace
}  // namespace peal
