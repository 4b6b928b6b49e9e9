#include "launcher/shard_record.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/base/error.h"

namespace peal {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

ShardRecord example() {
  return {.source = "pictures {\n}\n",
          .count = 8,
          .records = 100,
          .files = 0xfedcba9876543210,
          .skipped = {{3, "a.png: \"corrupt\"\\"}, {99, "b.png: is empty"}}};
}

std::string parse_error(const std::string& text) {
  try {
    parse_shard_record(text, "sharding.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "";
}

TEST(ShardRecord, IsReadAsItWasWritten) {
  const ShardRecord record = parse_shard_record(format_shard_record(example()), "r");
  EXPECT_EQ(format_shard_record(record), format_shard_record(example()));
  EXPECT_EQ(record.files, 0xfedcba9876543210);
  ASSERT_EQ(record.skipped.size(), 2u);
  EXPECT_EQ(record.skipped[0].why, example().skipped[0].why);
}

TEST(ShardRecord, WhatIsWrongIsNamed) {
  const std::string good = format_shard_record(example());
  // Cut anywhere before the last brace it is no JSON.
  for (std::size_t n = 0; n + 2 < good.size(); ++n) {
    EXPECT_THAT(parse_error(good.substr(0, n)), HasSubstr("sharding.json: is corrupt")) << n;
  }
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return parse_error(text.replace(text.find(from), from.size(), to));
  };
  EXPECT_THAT(changed("\"format\": 1", "\"format\": 2"), HasSubstr("this program reads 1"));
  EXPECT_THAT(changed("\"count\"", "\"cuont\""), HasSubstr("is corrupt"));
  EXPECT_THAT(changed("8", "\"eight\""), HasSubstr("is corrupt"));
  EXPECT_THAT(changed("fedcba9876543210", "xyz"), HasSubstr("is corrupt"));
  EXPECT_THAT(changed("\"record\": 99", "\"record\": 100"), HasSubstr("skipped record 100"));
  EXPECT_THAT(changed("\"record\": 99", "\"record\": 3"), HasSubstr("skipped record 3"));
  EXPECT_THAT(changed("\"record\": 3", "\"record\": -1"), HasSubstr("skipped record -1"));
}

TEST(ShardRecord, WhatIsAnotherIsNamed) {
  const auto error = [](const ShardRecord& asked) -> std::string {
    try {
      check_same_sharding(example(), asked, "r");
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(error(example()), "");
  ShardRecord other = example();
  other.skipped.clear();  // found by the run itself
  EXPECT_EQ(error(other), "");
  other.count = 0;
  other.bytes_per_shard = 1000;
  EXPECT_THAT(error(other), AllOf(HasSubstr("--count 8"), HasSubstr("--size 1000")));
  other = example();
  other.source = "text {\n}\n";
  EXPECT_THAT(error(other), AllOf(HasSubstr("pictures"), HasSubstr("text"), HasSubstr("--fresh")));
  other = example();
  other.records = 101;
  EXPECT_THAT(error(other), AllOf(HasSubstr("100 records then"), HasSubstr("101 now")));
  other = example();
  other.files = 1;
  EXPECT_THAT(error(other), HasSubstr("times of change"));
}

}  // namespace
}  // namespace peal
