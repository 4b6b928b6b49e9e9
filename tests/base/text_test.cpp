#include "core/base/text.h"

#include <gtest/gtest.h>

#include <climits>

#include "core/base/error.h"

namespace peal {
namespace {

TEST(Sizes, AreUnderstood) {
  const std::pair<const char*, long long> rows[] = {{"0", 0},
                                                    {"1", 1},
                                                    {"4096", 4096},
                                                    {"007", 7},
                                                    {"5B", 5},
                                                    {"5 b", 5},
                                                    {"64K", 65536},
                                                    {"64k", 65536},
                                                    {"64KB", 64000},
                                                    {"64kB", 64000},
                                                    {"64KiB", 65536},
                                                    {"64 kib", 65536},
                                                    {"128MB", 128000000},
                                                    {"128MiB", 134217728},
                                                    {"128M", 134217728},
                                                    {"3GB", 3000000000},
                                                    {"3GiB", 3221225472},
                                                    {"3g", 3221225472},
                                                    {"2TB", 2000000000000},
                                                    {"2TiB", 2199023255552},
                                                    {"2T", 2199023255552},
                                                    {"9223372036854775807", LLONG_MAX},
                                                    {"9223372036854775807B", LLONG_MAX},
                                                    {"8388607TiB", 9223370937343148032},
                                                    {"9223372TB", 9223372000000000000}};
  for (const auto& [text, bytes] : rows) EXPECT_EQ(parse_bytes(text, "x"), bytes) << text;
}

TEST(Sizes, AreRefusedWithWhatIsAllowed) {
  const std::string none = "is no size", large = "is more than 2^63 - 1 bytes";
  const std::pair<std::string, std::string> rows[] = {{"", none},
                                                      {" ", none},
                                                      {"B", none},
                                                      {"MiB", none},
                                                      {"12.5QB", none},
                                                      {"12QB", none},
                                                      {"12.5MB", none},
                                                      {"1,000", none},
                                                      {"1_000", none},
                                                      {"-1MB", none},
                                                      {"-0", none},
                                                      {"-99999999999999999999", none},
                                                      {"+1MB", none},
                                                      {"1e3", none},
                                                      {"0x10", none},
                                                      {" 1MB", none},
                                                      {"1MB ", none},
                                                      {"1 ", none},
                                                      {"1  MB", none},
                                                      {"1 M B", none},
                                                      {"1\tMB", none},
                                                      {"1 2", none},
                                                      {"1MBB", none},
                                                      {"1Mb it", none},
                                                      {"1iB", none},
                                                      {"1bB", none},
                                                      {"1KK", none},
                                                      {"1MB/s", none},
                                                      {std::string("1\0", 2), none},
                                                      {std::string("1\0MB", 4), none},
                                                      {"inf", none},
                                                      {"\u0661MB", none},  // a digit elsewhere
                                                      {"9223372036854775808", large},
                                                      {"99999999999GiB", large},
                                                      {"8388608TiB", large},
                                                      {"9223373TB", large},
                                                      {"99999999999999999999B", large}};
  for (const auto& [text, why] : rows) {
    try {
      ADD_FAILURE() << '"' << text << "\" became " << parse_bytes(text, "parallel.bucket_size");
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::input);
      EXPECT_EQ(error.where(), "parallel.bucket_size");
      const std::string& message = error.message();
      EXPECT_EQ(message.find('"' + text + "\" " + why + "; write a whole number"), 0u) << message;
      EXPECT_NE(message.find("KiB"), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace peal
