#include "launcher/whole_characters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace peal {
namespace {

using ::testing::ElementsAre;

// What is shown after each byte, and at the end.
std::vector<std::string> shown(const std::string& bytes, bool terminal) {
  WholeCharacters characters(terminal);
  std::vector<std::string> parts;
  for (const char c : bytes) parts.push_back(characters.add({&c, 1}));
  parts.push_back(characters.end());
  return parts;
}

TEST(WholeCharacters, WaitForTheirLastByte) {
  for (const bool terminal : {false, true}) {
    EXPECT_THAT(shown("a\xc3\xa9\xf0\x9f\x98\x80", terminal),
                ElementsAre("a", "", "\xc3\xa9", "", "", "", "\xf0\x9f\x98\x80", ""));
  }
  EXPECT_EQ(WholeCharacters(true).add("ab\xe2\x82\xac\n\tx"), "ab\xe2\x82\xac\n\tx");
}

TEST(WholeCharacters, OtherBytesStayWhereNobodyWatches) {
  EXPECT_THAT(shown("\xff\xe2\x82z\x1b\xc3", false),
              ElementsAre("\xff", "", "", "\xe2\x82z", "\x1b", "", "\xc3"));
}

TEST(WholeCharacters, DoNotSteerATerminal) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_THAT(shown("\xff\xe2\x82z\x1b\xc3", true),
              ElementsAre(bad, "", "", bad + bad + "z", bad, "", bad));
  EXPECT_EQ(WholeCharacters(true).add("\x1b[2J\x7f\r\xc2\x9b"), bad + "[2J" + bad + bad + bad);
}

}  // namespace
}  // namespace peal
