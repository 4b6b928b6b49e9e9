#include "core/data/cifar.h"

#include "tests/data/support.h"

namespace peal {
namespace {

using testing::Folder;
using testing::gzip;
using ::testing::HasSubstr;
using testing::input_error;
using testing::shared_data;

// Pixel j of record i is 7*i + j mod 251.
std::string record(int i, int label) {
  std::string bytes(1, static_cast<char>(label));
  for (int j = 0; j < static_cast<int>(kCifarPixels); ++j)
    bytes += static_cast<char>((7 * i + j) % 251);
  return bytes;
}

class Cifar : public ::testing::Test {
 protected:
  std::string error(const std::string& bytes, const CifarOptions& options = {}) {
    folder_.write("x.bin", bytes);
    return input_error([&] { open_cifar({(folder_ / "x.bin").string()}, options); });
  }
  Folder folder_;
};

TEST_F(Cifar, ReadsFilesPlainAndGzip) {
  folder_.write("batch_1.bin", record(0, 3) + record(1, 9));
  folder_.write("batch_2.bin", gzip(record(2, 0)));
  const auto dataset = open_cifar({(folder_ / "batch_{1..2}.bin").string()}, {});
  ASSERT_EQ(dataset->size(), 3);
  EXPECT_EQ(dataset->record_shape(), Shape({3, 32, 32}));
  EXPECT_EQ(dataset->record_dtype(), DType::u8);
  const float labels[] = {3, 9, 0};
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(dataset->label(i), labels[i]);
    EXPECT_EQ(std::memcmp(dataset->record(i), record(i, 0).data() + 1, kCifarPixels), 0) << i;
  }
}

TEST_F(Cifar, TakesAPart) {
  folder_.write("x.bin", record(0, 0) + record(1, 1) + record(2, 2) + record(3, 3));
  const std::vector<std::string> path = {(folder_ / "x.bin").string()};
  const auto part = open_cifar(path, {.begin = 1, .end = 3});
  ASSERT_EQ(part->size(), 2);
  EXPECT_EQ(part->label(0), 1);
  EXPECT_EQ(std::memcmp(part->record(1), record(2, 2).data() + 1, kCifarPixels), 0);
  EXPECT_EQ(open_cifar(path, {.begin = 3})->size(), 1);
  EXPECT_EQ(open_cifar(path, {.end = 4})->size(), 4);
  const std::string four = record(0, 0) + record(1, 1) + record(2, 2) + record(3, 3);
  EXPECT_THAT(error(four, {.begin = 4}), HasSubstr("x.bin: records 4 to 4 of 4; the first must"));
  EXPECT_THAT(error(four, {.begin = 2, .end = 2}), HasSubstr("records 2 to 2 of 4"));
  EXPECT_THAT(error(four, {.end = 5}), HasSubstr("records 0 to 5 of 4"));
}

TEST_F(Cifar, RefusesWhatIsWrong) {
  EXPECT_THAT(error(""), HasSubstr("x.bin: is empty; records of 3073 bytes"));
  const std::string two = record(0, 0) + record(1, 1);
  EXPECT_THAT(error(two.substr(0, 3073 + 5)),
              HasSubstr("x.bin: ends in record 1, after 5 of its 3073 bytes"));
  EXPECT_THAT(error(gzip(two.substr(0, 3072))), HasSubstr("ends in record 0, after 3072"));
  EXPECT_THAT(error(record(0, 0) + record(1, 10)),
              HasSubstr("record 1 has label 10; allowed are 0 to 9"));
  const std::string zipped = gzip(two);
  EXPECT_THAT(error(zipped.substr(0, zipped.size() / 2)), HasSubstr("x.bin"));
  EXPECT_THAT(input_error([&] { open_cifar({(folder_ / "none.bin").string()}, {}); }),
              HasSubstr("none.bin"));
  EXPECT_THAT(input_error([&] { open_cifar({(folder_ / "none*").string()}, {}); }),
              HasSubstr("matches no file"));
}

TEST(CifarFiles, TheSharedSubset) {
  const auto dataset = open_cifar({shared_data("cifar10/data_first4000.bin.gz").string()}, {});
  ASSERT_EQ(dataset->size(), 4000);
  const int expected[] = {396, 366, 420, 384, 422, 393, 414, 385, 407, 413};
  int found[10] = {};
  for (std::int64_t i = 0; i < dataset->size(); ++i) ++found[static_cast<int>(dataset->label(i))];
  for (int label = 0; label < 10; ++label) EXPECT_EQ(found[label], expected[label]) << label;
}

}  // namespace
}  // namespace peal
