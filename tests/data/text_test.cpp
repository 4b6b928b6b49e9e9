#include "core/data/text.h"

#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using testing::Folder;
using testing::gzip;
using ::testing::HasSubstr;
using testing::input_error;

struct Line {
  std::string text;
  float label;
  friend bool operator==(const Line&, const Line&) = default;
};

std::vector<Line> lines_of(RecordSource& source) {
  std::vector<Line> lines;
  for (std::int64_t i = 0; i < source.size(); ++i) {
    std::string out(source.record_bytes(), 'x');
    source.read(i, out.data());
    lines.push_back({out, source.label(i)});
  }
  return lines;
}

std::string zeros(const std::string& text, std::size_t length) {
  return text + std::string(length - text.size(), '\0');
}

class TextFiles : public ::testing::Test {
 protected:
  std::vector<Line> read(const std::string& text, const TextOptions& options) {
    const auto plain = open_text({folder_.write("t.txt", text)}, options);
    const auto zipped = open_text({folder_.write("t.txt.gz", gzip(text))}, options);
    EXPECT_EQ(lines_of(*plain), lines_of(*zipped));
    return lines_of(*plain);
  }
  std::string error(const std::string& text, const TextOptions& options) {
    folder_.write("t.txt", text);
    return input_error([&] { open_text({folder_ / "t.txt"}, options); });
  }

  Folder folder_;
};

TEST_F(TextFiles, Lines) {
  EXPECT_EQ(read("one\r\n\nfour\n\r\nlast", {.length = 4}),
            (std::vector<Line>{{zeros("one", 4), 0}, {"four", 0}, {"last", 0}}));
  EXPECT_EQ(read("a longer line\nb\n", {.length = 4, .cut_long = true}),
            (std::vector<Line>{{"a lo", 0}, {zeros("b", 4), 0}}));
  EXPECT_EQ(
      read("3 good\n12\tbad\n0,\n\n7  two", {.length = 4, .label_first = true}),
      (std::vector<Line>{{"good", 3}, {zeros("bad", 4), 12}, {zeros("", 4), 0}, {" two", 7}}));
}

TEST_F(TextFiles, Pieces) {
  EXPECT_EQ(read("abcd\nfghij", {.lines = false, .length = 4}),
            (std::vector<Line>{{"abcd", 0}, {"\nfgh", 0}, {zeros("ij", 4), 0}}));
}

TEST_F(TextFiles, SeveralFilesInOrder) {
  folder_.write("b.txt", "2\n3\n");
  folder_.write("a.txt", "1\n");
  folder_.write("c.txt", gzip("4\n"));
  const auto source = open_text({folder_ / "*.txt"}, {.length = 1});
  std::string all;
  for (const Line& line : lines_of(*source)) all += line.text;
  EXPECT_EQ(all, "1234");
  EXPECT_THAT(source->record_name(2), AllOf(HasSubstr("b.txt"), HasSubstr("record 1")));
}

TEST_F(TextFiles, WhatIsWrongIsNamed) {
  EXPECT_THAT(error("", {.length = 4}), HasSubstr("holds no text"));
  EXPECT_THAT(error("\n\n", {.length = 4}), HasSubstr("holds no text"));
  EXPECT_THAT(input_error([&] { open_text({folder_.write("t.gz", gzip(""))}, {.length = 4}); }),
              HasSubstr("holds no text"));
  EXPECT_THAT(error("one\n\nthree", {.length = 4}),
              AllOf(HasSubstr("t.txt:3"), HasSubstr("5 bytes"), HasSubstr("cut_long_lines")));
  for (const char* line : {"good", "-1 x", "3", "3x", " 3 x", "99999999999 x", "16777217 x"}) {
    EXPECT_THAT(error(std::string("1 x\n") + line, {.length = 20, .label_first = true}),
                AllOf(HasSubstr("t.txt:2"), HasSubstr("label")))
        << line;
  }
  EXPECT_THAT(error("a", {.length = 0}), HasSubstr("0 bytes"));
  EXPECT_THAT(error("a", {.length = std::int64_t{1} << 40}), HasSubstr("1099511627776 bytes"));
  const std::string zipped = gzip(std::string(10000, 'x'));
  EXPECT_THAT(error(zipped.substr(0, zipped.size() / 2), {.length = 4}), HasSubstr("end early"));
}

TEST_F(TextFiles, ShakespeareInPieces) {
  const auto source = open_text({testing::shared_data("tinyshakespeare/input.txt")},
                                {.lines = false, .length = 256});
  EXPECT_EQ(source->size(), (1115394 + 255) / 256);
  std::string out(256, '\0');
  source->read(0, out.data());
  EXPECT_TRUE(out.starts_with("First Citizen:\n"));
}

}  // namespace
}  // namespace peal
