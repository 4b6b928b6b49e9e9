#include "core/data/tar.h"

#include <algorithm>
#include <cstring>

#include "core/data/file_patterns.h"
#include "core/data/record_source.h"
#include "tests/data/picture_files.h"
#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::Folder;
using testing::gzip;
using ::testing::HasSubstr;
using testing::input_error;
using testing::make_png;

std::string octal(std::uint64_t value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%0*llo", digits, static_cast<unsigned long long>(value));
  return text;
}

std::string with_checksum(std::string header) {
  header.replace(148, 8, 8, ' ');
  unsigned sum = 0;
  for (const char c : header) sum += static_cast<unsigned char>(c);
  header.replace(148, 8, octal(sum, 6) + std::string("\0 ", 2));
  return header;
}

std::string padded(const std::string& body) {
  return body + std::string((512 - body.size() % 512) % 512, '\0');
}

std::string header(const std::string& name, std::uint64_t size, char type = '0',
                   const std::string& prefix = "") {
  std::string block(512, '\0');
  block.replace(0, name.size(), name);
  block.replace(100, 7, "0000644");
  block.replace(124, 11, octal(size, 11));
  block[156] = type;
  block.replace(257, 8,
                std::string("ustar\0"
                            "00",
                            8));
  block.replace(345, prefix.size(), prefix);
  return with_checksum(block);
}

std::string member(const std::string& name, const std::string& body, char type = '0') {
  return header(name, body.size(), type) + padded(body);
}

std::string pax_line(const std::string& key, const std::string& value) {
  const std::string rest = " " + key + "=" + value + "\n";
  std::size_t length = rest.size();
  while (std::to_string(length).size() + rest.size() != length) ++length;
  return std::to_string(length) + rest;
}

const std::string kEnd(1024, '\0');

struct Found {
  std::string name, body;
  friend bool operator==(const Found&, const Found&) = default;
};

std::vector<Found> read_all(const std::string& archive) {
  // Its own memory, so that a sanitizer sees a byte read behind the end.
  const std::vector<char> exact(archive.begin(), archive.end());
  TarReader reader(std::as_bytes(std::span(exact)), "a.tar");
  std::vector<Found> found;
  TarMember m;
  while (reader.next(m)) {
    std::string body(m.bytes, '\0');
    reader.read(reinterpret_cast<std::byte*>(body.data()));
    found.push_back({m.name, body});
  }
  return found;
}

TEST(Tar, MembersPlainAndGzip) {
  const std::string archive = member("a.txt", "hello") + member("./dir/", "", '5') +
                              member("./dir/empty", "") + member("b", std::string(512, 'x')) +
                              kEnd + std::string(512 * 3, '\0');
  const std::vector<Found> expected = {
      {"a.txt", "hello"}, {"dir/empty", ""}, {"b", std::string(512, 'x')}};
  EXPECT_EQ(read_all(archive), expected);
  EXPECT_EQ(read_all(gzip(archive)), expected);
}

TEST(Tar, LongNamesAndSizes) {
  const std::string name = std::string(150, 'n') + "/" + std::string(90, 'm');
  // ustar's prefix, GNU's L, pax's path, pax's size, GNU's binary size.
  EXPECT_EQ(read_all(header("m", 1, '0', "long/prefix") + padded("1") + kEnd),
            (std::vector<Found>{{"long/prefix/m", "1"}}));
  const std::string longer = name + '\0';
  EXPECT_EQ(read_all(member("././@LongLink", longer, 'L') + member("short", "2") + kEnd),
            (std::vector<Found>{{name, "2"}}));
  EXPECT_EQ(read_all(member("x", pax_line("mtime", "1.5") + pax_line("path", name), 'x') +
                     member("short", "3") + member("next", "4") + kEnd),
            (std::vector<Found>{{name, "3"}, {"next", "4"}}));
  EXPECT_EQ(
      read_all(member("x", pax_line("size", "5"), 'x') + header("p", 0) + padded("12345") + kEnd),
      (std::vector<Found>{{"p", "12345"}}));
  std::string binary = header("g", 0);
  binary.replace(124, 12, std::string("\x80\0\0\0\0\0\0\0\0\0\0\x03", 12));
  EXPECT_EQ(read_all(with_checksum(binary) + padded("abc") + kEnd),
            (std::vector<Found>{{"g", "abc"}}));
}

TEST(Tar, EveryTruncationIsRefused) {
  const std::string archive = member("x", pax_line("path", "long"), 'x') + member("a", "hello") +
                              member("b", "world") + kEnd;
  EXPECT_EQ(read_all(archive).size(), 2u);
  for (std::size_t n = 0; n < archive.size(); n += n < 600 ? 1 : 13) {
    EXPECT_THAT(input_error([&] { read_all(archive.substr(0, n)); }), HasSubstr("a.tar")) << n;
  }
}

TEST(Tar, WhatIsWrongIsNamed) {
  const auto error = [](const std::string& archive) {
    return input_error([&] { read_all(archive); });
  };
  EXPECT_THAT(error("no archive" + std::string(600, 'x')), HasSubstr("no tar archive"));
  std::string damaged = member("a", "1") + member("b", "2") + kEnd;
  damaged[1024 + 3] = 'Z';
  EXPECT_THAT(error(damaged), AllOf(HasSubstr("offset 1024"), HasSubstr("checksum")));
  EXPECT_THAT(error(member("a", "1") + kEnd + member("b", "2")), HasSubstr("follow the end mark"));
  for (const char type : {'1', '2', '3', '4', '6', 'S', 'V'}) {
    EXPECT_THAT(error(member("odd", "", type) + kEnd), AllOf(HasSubstr("odd"), HasSubstr("link")));
  }
  for (const char* name : {"/etc/passwd", "../up", "a/../../b", "./../c", "..", "a/.."}) {
    EXPECT_THAT(error(member(name, "1") + kEnd), HasSubstr("names are relative")) << name;
  }
  EXPECT_EQ(read_all(member("a/..b", "1") + kEnd).size(), 1u);
  EXPECT_THAT(error(member("x", pax_line("GNU.sparse.major", "1"), 'x') + member("a", "") + kEnd),
              HasSubstr("sparse"));
  EXPECT_THAT(error(member("x", pax_line("path", "a"), 'x') + kEnd), HasSubstr("without its"));
}

TEST(Tar, HostileSizesTakeNoMemory) {
  const auto error = [](const std::string& archive) {
    return input_error([&] { read_all(archive); });
  };
  std::string huge = header("a", 0);
  huge.replace(124, 12, std::string("\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", 12));
  EXPECT_THAT(error(with_checksum(huge) + kEnd), HasSubstr("size"));
  const auto skipped = [](const std::string& archive) {
    TarReader reader(std::as_bytes(std::span(archive)), "a.tar");
    TarMember m;
    while (reader.next(m)) {
    }
  };
  EXPECT_THAT(input_error([&] { skipped(header("a", 07777777777) + kEnd); }),
              HasSubstr("inside member"));
  EXPECT_THAT(error(header("x", 07777777777, 'x') + kEnd), HasSubstr("pax header of"));
  EXPECT_THAT(error(header("x", 07777777777, 'L') + kEnd), HasSubstr("long name of"));
  for (const char* body : {"9999999 path=x\n", "5 a=b", "0 path=x\n", "12 path-long\n", "x",
                           "99999999999999999999999 path=x\n", "3 \n", "11 size=-1\n",
                           "40 size=99999999999999999999999999999999\n"}) {
    EXPECT_THAT(error(member("x", body, 'x') + member("a", "1") + kEnd), HasSubstr("pax header"))
        << body;
  }
}

// ---- Records ----

class Tars : public ::testing::Test {
 protected:
  std::string open_error(const std::string& archive) {
    folder_.write("t.tar", archive);
    return input_error([&] { open_tars({folder_ / "t.tar"}, {}); });
  }
  std::string record(RecordSource& source, std::int64_t index) {
    std::string out(source.record_bytes(), '\0');
    source.read(index, out.data());
    return out;
  }

  Folder folder_;
};

TEST_F(Tars, SeveralArchivesInOrder) {
  const auto png = [](int value) {
    return make_png(1, 2, {static_cast<std::uint8_t>(value), 255});
  };
  folder_.write("d-00.tar", member("k/0.png", png(10)) + member("k/0.cls", "3\n") +
                                member("k/0.json", "{}") + member("k/1.CLS", "7") +
                                member("k/1.PNG", png(11)) + kEnd);
  folder_.write("d-01.tar",
                gzip(member("2.cls", " 5 ") + member("2.png", png(12)) + member("3.other.txt", "") +
                     member("4.png", png(14)) + member("4.cls", "0") + kEnd));
  for (const std::string pattern : {"d-{00..01}.tar", "d-*.tar", "d-{00,01}.tar", "d-0?.tar"}) {
    const auto source = open_tars({folder_ / pattern}, {});
    ASSERT_EQ(source->size(), 4) << pattern;
    EXPECT_EQ(source->files(), 2);
    // Backwards too: gzip begins again.
    for (const std::int64_t i : {0, 1, 2, 3, 3, 2, 0, 3}) {
      EXPECT_EQ(record(*source, i)[0], (std::vector<char>{10, 11, 12, 14})[std::size_t(i)]) << i;
      EXPECT_EQ(source->label(i), (std::vector<float>{3, 7, 5, 0})[std::size_t(i)]) << i;
    }
    EXPECT_THAT(source->record_name(3), AllOf(HasSubstr("d-01.tar"), HasSubstr("4.png")));
  }
}

TEST_F(Tars, WhatIsWrongIsNamed) {
  const std::string png = make_png(1, 1, {1});
  EXPECT_THAT(open_error(kEnd), HasSubstr("no records"));
  EXPECT_THAT(open_error(member("a.png", png) + kEnd),
              AllOf(HasSubstr("t.tar"), HasSubstr("a.cls")));
  EXPECT_THAT(open_error(member("a.cls", "1") + member("b.png", png) + kEnd),
              HasSubstr("record a has no picture"));
  EXPECT_THAT(open_error(member("a.png", png) + member("a.jpg", png) + kEnd),
              HasSubstr("second picture"));
  EXPECT_THAT(open_error(member("a.cls", "1") + member("a.cls", "1") + kEnd),
              HasSubstr("second label"));
  for (const std::string label : {"", "x", "-1", "1.5", "1 2", "99999999999", "16777217",
                                  "1                                          "}) {
    EXPECT_THAT(open_error(member("a.cls", label) + member("a.png", png) + kEnd),
                AllOf(HasSubstr("a.cls"), HasSubstr("whole number")))
        << label;
  }
  EXPECT_THAT(open_error(member("a.png", png.substr(0, 20)) + member("a.cls", "1") + kEnd),
              AllOf(HasSubstr("t.tar"), HasSubstr("a.png"), HasSubstr("corrupt PNG")));
  EXPECT_THAT(input_error([&] { open_tars({folder_ / "none.tar"}, {}); }), HasSubstr("none.tar"));
}

TEST_F(Tars, ACorruptPictureIsToldApart) {
  const std::string png = make_png(1, 1, {1});
  folder_.write("t.tar", member("a.png", "broken") + member("a.cls", "1") + member("b.png", png) +
                             member("b.cls", "2") + kEnd);
  const auto source = open_tars({folder_ / "t.tar"}, {.picture = {.skip_corrupt = true}});
  EXPECT_THAT(source->corruption(0).value(), HasSubstr("a.png"));
  EXPECT_FALSE(source->corruption(1));
}

// ---- Names of files ----

TEST(FilePatterns, Braces) {
  EXPECT_THAT(expand_braces("plain"), ElementsAre("plain"));
  EXPECT_THAT(expand_braces("a-{08..11}.tar"),
              ElementsAre("a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"));
  EXPECT_THAT(expand_braces("{x,y}{1..2}"), ElementsAre("x1", "x2", "y1", "y2"));
  EXPECT_THAT(expand_braces("{7..7},{,b}"), ElementsAre("7,", "7,b"));
  for (const char* text : {"{", "}", "a{b", "a}b", "{a{b}}", "{2..1}", "{a..c}", "{1..}", "{-1..2}",
                           "{0..4294967296}"}) {
    EXPECT_THAT(input_error([&] { expand_braces(text); }), HasSubstr(text)) << text;
  }
  for (const char* text : {"{0..4000000000}", "{0..100000}", "{1..1000}{1..1000}",
                           "{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}{0..9}"}) {
    EXPECT_THAT(input_error([&] { expand_braces(text); }), HasSubstr("100000")) << text;
  }
}

TEST(FilePatterns, EveryPatternHasAFileAndNoneIsNamedTwice) {
  Folder folder;
  folder.write("a.tar", "");
  folder.write("b.tar", "");
  const auto find = [&](const std::vector<std::string>& names) {
    std::vector<std::string> patterns;
    for (const std::string& name : names) patterns.push_back(folder / name);
    return find_files(patterns, "tar");
  };
  EXPECT_THAT(find({"*.tar"}), ElementsAre(folder / "a.tar", folder / "b.tar"));
  EXPECT_THAT(find({"b.tar", "a.tar"}), ElementsAre(folder / "b.tar", folder / "a.tar"));
  EXPECT_THAT(input_error([&] { find({"*.tar", "c*.tar"}); }), HasSubstr("c*.tar"));
  EXPECT_THAT(input_error([&] { find({"a.tar", "*.tar"}); }), HasSubstr("named twice"));
  EXPECT_THAT(input_error([&] { find({}); }), HasSubstr("names no files"));
}

}  // namespace
}  // namespace peal
