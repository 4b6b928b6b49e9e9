// The file format: what is written is what the format says, and nothing else is accepted.
#include "core/state/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "core/base/checksum.h"
#include "tests/state/state_testing.h"

namespace peal {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A file made by hand from a header and data bytes.
std::string file_of(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t size = header.size();
  std::string bytes(reinterpret_cast<const char*>(&size), 8);
  bytes += header;
  for (std::size_t i = 0; i < data_bytes; ++i) bytes += static_cast<char>(i);
  return bytes;
}

class Safetensors : public ::testing::Test {
 protected:
  std::string read_error(const std::string& bytes) {
    spit(path_, bytes);
    const MappedFile file(path_);
    const std::string what = input_error([&] { read_safetensors(file, path_); });
    const std::string prefix = path_.string() + ": ";
    if (what == "no error") return what;
    EXPECT_THAT(what, StartsWith(prefix));
    return what.substr(prefix.size());
  }
  TemporaryFolder folder_;
  std::filesystem::path path_ = folder_.path() / "x.safetensors";
};

TEST_F(Safetensors, WritesTheFormatByteForByte) {
  float a[2] = {1, 2};
  std::uint8_t b[3] = {7, 8, 9};
  const std::uint64_t hash = write_safetensors(
      path_, {{"z", {a, {2, 1}, DType::f32}}, {"a", {b, {3}, DType::u8}}}, {{"format", "pt"}});
  std::string header = R"({"__metadata__":{"format":"pt"},"z":{"dtype":"F32","shape":[2,1],)"
                       R"("data_offsets":[0,8]},"a":{"dtype":"U8","shape":[3],)"
                       R"("data_offsets":[8,11]}})";
  while ((header.size() + 8) % 64 != 0) header += ' ';
  const std::uint64_t size = header.size();
  std::string expected(reinterpret_cast<const char*>(&size), 8);
  expected += header;
  expected.append(reinterpret_cast<const char*>(a), 8);
  expected += "\x07\x08\x09";
  EXPECT_EQ(slurp(path_), expected);
  EXPECT_EQ(hash, xxh64(expected.data(), expected.size()));
}

TEST_F(Safetensors, EveryDtypeShapeAndOrderComesBack) {
  std::vector<std::byte> memory(512);
  for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 7);
  std::vector<NamedTensor> tensors;
  int k = 0;
  for (const DType dtype : {DType::f64, DType::f32, DType::f16, DType::bf16, DType::i64, DType::i32,
                            DType::i8, DType::u8, DType::boolean}) {
    tensors.push_back({cat("t", 9 - k), {memory.data() + k, {2, 3}, dtype}});
    ++k;
  }
  tensors.push_back({"scalar", {memory.data(), {}, DType::f32}});
  tensors.push_back(
      {"name with \"quotes\" and \\", {memory.data(), {1, 1, 1, 1, 1, 2}, DType::u8}});
  write_safetensors(path_, tensors, {});
  const MappedFile file(path_);
  const std::vector<NamedTensor> back = read_safetensors(file, path_);
  ASSERT_EQ(back.size(), tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    EXPECT_EQ(back[i].name, tensors[i].name);
    EXPECT_EQ(back[i].tensor.dtype, tensors[i].tensor.dtype);
    EXPECT_EQ(back[i].tensor.shape, tensors[i].tensor.shape);
    EXPECT_EQ(std::memcmp(back[i].tensor.data, tensors[i].tensor.data, tensors[i].tensor.bytes()),
              0);
  }
  EXPECT_EQ(hash_tensors(back), hash_tensors(tensors));
}

TEST_F(Safetensors, NoTensorsAndEmptyTensors) {
  write_safetensors(path_, {}, {});
  EXPECT_TRUE(read_safetensors(MappedFile(path_), path_).empty());
  float a = 3;
  write_safetensors(path_, {{"e", {nullptr, {0, 4}, DType::f32}}, {"a", {&a, {1}, DType::f32}}},
                    {});
  const MappedFile file(path_);
  const auto back = read_safetensors(file, path_);
  ASSERT_EQ(back.size(), 2u);
  EXPECT_EQ(back[0].tensor.bytes(), 0u);
  EXPECT_EQ(back[1].name, "a");
}

TEST_F(Safetensors, ReadsWhatOthersWrite) {
  // Unpadded header, trailing spaces, metadata: as the format allows.
  EXPECT_EQ(read_error(file_of(R"({"__metadata__":{"k":"v"},"b":{"dtype":"I64","shape":[1],)"
                               R"("data_offsets":[4,12]},"a":{"shape":[2,2],"dtype":"U8",)"
                               R"("data_offsets":[0,4]}}   )",
                               12)),
            "no error");
}

TEST_F(Safetensors, WrongFilesAreRefusedByTensor) {
  const auto one = [](const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
    return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
           "}}";
  };
  EXPECT_EQ(read_error(file_of(one("\"F32\"", "[2]", "[0,8]"), 8)), "no error");
  const std::string w = "tensor \"w\": ";
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2]", "[0,8]"), 7)),
              StartsWith(w + "ends at 8; the file holds only 7"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2]", "[0,8]"), 9)),
              StartsWith("1 bytes at the end belong to no tensor"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2]", "[1,9]"), 9)),
              StartsWith(w + "begins at 1 and leaves a gap after 0"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2]", "[8,0]"), 8)), StartsWith(w + "data_off"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2]", "[0,4]"), 8)), StartsWith(w + "data_off"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2]", "[0]"), 8)), StartsWith(w + "data_off"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2]", "[-8,0]"), 8)), StartsWith(w + "data_off"));
  EXPECT_THAT(read_error(file_of(one("\"F7\"", "[2]", "[0,8]"), 8)), StartsWith(w));
  EXPECT_THAT(read_error(file_of(one("3", "[2]", "[0,8]"), 8)), StartsWith(w + "dtype"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "2", "[0,8]"), 8)), StartsWith(w + "shape"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[2.0]", "[0,8]"), 8)), StartsWith(w + "shape"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[-2]", "[0,8]"), 8)), StartsWith(w + "shape"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[4294967296,4294967296]", "[0,0]"), 0)),
              HasSubstr("overflows"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[4294967296,4294967296,0]", "[0,0]"), 0)),
              HasSubstr("overflows"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[18446744073709551615]", "[0,0]"), 0)),
              HasSubstr("overflows"));
  EXPECT_THAT(read_error(file_of(one("\"F32\"", "[1,1,1,1,1,1,1]", "[0,4]"), 4)),
              StartsWith(w + "has 7 dimensions"));
  EXPECT_THAT(read_error(file_of(R"({"w":{"shape":[1],"data_offsets":[0,4]}})", 4)),
              StartsWith(w + "has no dtype"));
  EXPECT_THAT(read_error(file_of(R"({"w":3})", 0)), StartsWith(w + "is no JSON object"));
}

TEST_F(Safetensors, WrongHeadersAreRefused) {
  const std::string two = R"("a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)";
  EXPECT_THAT(read_error(file_of("{" + two +
                                     R"("b":{"dtype":"U8","shape":[4],)"
                                     R"("data_offsets":[2,6]}})",
                                 6)),
              StartsWith("tensor \"b\": overlaps"));
  EXPECT_THAT(read_error(file_of("{" + two + two.substr(0, two.size() - 1) + "}", 4)),
              StartsWith("tensor \"a\" stands twice"));
  EXPECT_THAT(read_error(file_of(R"({"__metadata__":{"a":1}})", 0)), HasSubstr("__metadata__"));
  EXPECT_THAT(read_error(file_of(R"({"__metadata__":3})", 0)), HasSubstr("__metadata__"));
  EXPECT_THAT(read_error(file_of("[]", 0)), HasSubstr("no JSON object"));
  EXPECT_THAT(read_error(file_of("{", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(read_error(file_of("", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(read_error(file_of("\xff\xfe", 0)), HasSubstr("no JSON"));
  EXPECT_THAT(read_error(file_of(std::string(1 << 20, '['), 0)), HasSubstr("nested too deeply"));
  EXPECT_THAT(read_error(""), HasSubstr("too few"));
  EXPECT_THAT(read_error("1234567"), HasSubstr("too few"));
  EXPECT_THAT(read_error(std::string(8, '\xff')), HasSubstr("says that its header has"));
  std::string long_header = file_of("{}", 0);
  long_header[0] = 3;
  EXPECT_THAT(read_error(long_header), HasSubstr("says that its header has 3 bytes"));
}

TEST_F(Safetensors, AHeaderOfMoreThan100MiBIsRefusedBeforeItIsRead) {
  const std::uint64_t size = (std::uint64_t{100} << 20) + 1;
  spit(path_, std::string(reinterpret_cast<const char*>(&size), 8));
  std::filesystem::resize_file(path_, size + 8);  // sparse
  const MappedFile file(path_);
  EXPECT_THAT(input_error([&] { read_safetensors(file, path_); }),
              HasSubstr("a header at most 104857600"));
}

TEST(HashTensors, DependsOnNamesShapesAndBytesButNotOnOrder) {
  float a[4] = {1, 2, 3, 4}, b[4] = {5, 6, 7, 8};
  const NamedTensor x{"x", {a, {4}, DType::f32}}, y{"y", {b, {4}, DType::f32}};
  const std::uint64_t hash = hash_tensors({x, y});
  EXPECT_EQ(hash_tensors({y, x}), hash);
  EXPECT_NE(hash_tensors({x}), hash);
  EXPECT_NE(hash_tensors({{"x2", x.tensor}, y}), hash);
  EXPECT_NE(hash_tensors({{"x", {a, {2, 2}, DType::f32}}, y}), hash);
  EXPECT_NE(hash_tensors({{"x", {a, {4}, DType::i32}}, y}), hash);
  EXPECT_NE(hash_tensors({{"x", y.tensor}, {"y", x.tensor}}), hash);
  a[3] = 5;
  EXPECT_NE(hash_tensors({x, y}), hash);
}

}  // namespace
}  // namespace peal
