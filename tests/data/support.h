// What the tests of core/data share: a folder that goes away, gzip, and errors as text.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <zlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/base/file.h"
#include "core/data/dataset.h"
#include "tests/temporary_folder.h"

namespace peal::testing {

class Folder : public TemporaryFolder {
 public:
  std::filesystem::path operator/(const std::string& name) const { return path() / name; }

  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    std::ofstream(path() / name, std::ios::binary) << bytes;
    return path() / name;
  }
};

inline std::string gzip(const std::string& plain) {
  std::string out(compressBound(plain.size()) + 64, '\0');
  z_stream stream{};
  deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(plain.data()));
  stream.avail_in = static_cast<uInt>(plain.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&stream, Z_FINISH), Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

// The text of the Error(input) that `call` throws; "" with a failure when it throws none.
template <typename Call>
std::string input_error(const Call& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return "";
}

inline std::filesystem::path shared_data(const std::string& name) {
  const std::filesystem::path path = std::filesystem::path(PEAL_TEST_DATA) / name;
  if (!std::filesystem::exists(path)) {
    ADD_FAILURE() << "the real data sets are not there: " << path
                  << " (set PEAL_TEST_DATA to their folder)";
  }
  return path;
}

inline std::unique_ptr<Dataset> float_dataset(const Shape& shape, const std::vector<float>& values,
                                              std::vector<float> labels) {
  std::vector<std::byte> bytes(values.size() * sizeof(float));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return memory_dataset("floats", shape, DType::f32, std::move(bytes), std::move(labels));
}

// Record i of (2, 3) bytes holds i, i + 1, ... mod 251; its label is i.
inline std::unique_ptr<Dataset> counting_dataset(std::int64_t records) {
  std::vector<std::byte> bytes;
  std::vector<float> labels;
  for (std::int64_t i = 0; i < records; ++i) {
    for (std::int64_t j = 0; j < 6; ++j) bytes.push_back(static_cast<std::byte>((i + j) % 251));
    labels.push_back(static_cast<float>(i));
  }
  return memory_dataset("counting", Shape{2, 3}, DType::u8, std::move(bytes), std::move(labels));
}

}  // namespace peal::testing
