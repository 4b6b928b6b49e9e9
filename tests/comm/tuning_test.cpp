// The file of fitted costs: what is written is read, all else is refused with its place.
#include "comm/tuning.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "core/base/error.h"
#include "tests/temporary_folder.h"

namespace peal {
namespace {

using testing::HasSubstr;

Tuning example() {
  Tuning tuning;
  tuning.costs.set({4.25e-7, 0, 5e-11, 3e-5, 2e-6, 8.5e-9});
  tuning.costs.factors[static_cast<std::size_t>(Way::direct)][3] = 2.5;
  tuning.inside = FittedOn{1, 2, "A CPU @ 2 GHz"};
  tuning.between = FittedOn{4, 1, "A CPU @ 2 GHz"};
  return tuning;
}

std::string refused(const std::string& text) {
  try {
    parse_tuning(text, "tuning");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "was taken";
}

// The example with one piece of text replaced.
std::string with(const std::string& what, const std::string& by) {
  std::string text = print_tuning(example());
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

TEST(Tuning, WhatIsPrintedIsRead) {
  const Tuning given = example();
  const Tuning read = parse_tuning(print_tuning(given), "tuning");
  EXPECT_EQ(read.costs.values(), given.costs.values());
  EXPECT_EQ(read.costs.factors, given.costs.factors);
  ASSERT_TRUE(read.inside && read.between);
  EXPECT_EQ(read.inside->cpu, "A CPU @ 2 GHz");
  EXPECT_EQ(read.inside->ranks_per_host, 2);
  EXPECT_EQ(read.between->hosts, 4);
}

TEST(Tuning, WhatWasNotFittedIsBuiltIn) {
  Tuning given = example();
  given.between.reset();
  const Tuning read = parse_tuning(print_tuning(given), "tuning");
  EXPECT_FALSE(read.between);
  EXPECT_EQ(read.costs.inside.meeting, 4.25e-7);
  EXPECT_EQ(read.costs.between.step, BetweenCosts().step);
}

TEST(Tuning, NumbersThatCannotBe) {
  for (const char* number : {"-1e-9", "nan", "inf", "-inf", "1e99", "11", "1e400", "", "4,5",
                             "4e-7s", " 4e-7", "0x1p-20"}) {
    const std::string said = refused(with("4.25e-07", number));
    EXPECT_THAT(said, HasSubstr("tuning:6 inside.meeting")) << number;
  }
  EXPECT_EQ(parse_tuning(with("4.25e-07", "0"), "tuning").costs.inside.meeting, 0);
  for (const char* number : {"-2.5", "nan", "0", "1e4", "2.5 1", "2,5"}) {
    EXPECT_THAT(refused(with("2.5", number)), HasSubstr("between.factors.direct")) << number;
  }
  EXPECT_THAT(refused(with("2.5 1 ", "")), HasSubstr("17"));
  EXPECT_THAT(refused(with("between.hosts: 4", "between.hosts: 0")), HasSubstr("1 to"));
  EXPECT_THAT(refused(with("between.hosts: 4", "between.hosts: 99999999999")), HasSubstr("number"));
}

TEST(Tuning, OtherFiles) {
  EXPECT_THAT(refused(""), HasSubstr("\"version\" is missing"));
  EXPECT_THAT(refused("version: 1\nend: tuning\n"), HasSubstr("nothing was fitted"));
  EXPECT_THAT(refused(with("version: 1", "version: 2")), HasSubstr("version 2; this Peal reads 1"));
  EXPECT_THAT(refused(with("inside.cpu", "inside.gpu")), HasSubstr("\"inside.cpu\" is missing"));
  EXPECT_THAT(refused(print_tuning(example()) + "colour: 3\n"),
              HasSubstr("unknown key \"colour\""));
  EXPECT_THAT(refused(print_tuning(example()) + "version: 1\n"), HasSubstr("twice"));
  EXPECT_THAT(refused(with("inside.cpu: ", "inside.cpu")), HasSubstr("tuning:5"));
  EXPECT_THAT(refused(with("A CPU", "A\tCPU")), HasSubstr("plain text"));
  EXPECT_THAT(refused(std::string(1000, 'x')), HasSubstr("key: value"));
  const std::string whole = print_tuning(example());
  for (std::size_t length = 0; length + 1 < whole.size(); ++length) {
    EXPECT_NE(refused(whole.substr(0, length)), "was taken") << "cut at " << length;
  }
}

TEST(Tuning, FilesThatAreNone) {
  const TemporaryFolder folder;
  EXPECT_THROW(read_tuning(folder.path() / "absent"), Error);
  EXPECT_THROW(read_tuning(folder.path()), Error);
  EXPECT_THROW(read_tuning("/dev/zero"), Error);
  std::ofstream(folder.path() / "long") << print_tuning(example()) << std::string(1 << 17, '#');
  EXPECT_THROW(read_tuning(folder.path() / "long"), Error);
  std::ofstream(folder.path() / "good") << print_tuning(example());
  EXPECT_EQ(read_tuning(folder.path() / "good").costs.values(), example().costs.values());
}

TEST(Tuning, DefaultPlace) {
  ::setenv("XDG_CACHE_HOME", "/somewhere", 1);
  EXPECT_EQ(default_tuning_path(), "/somewhere/peal/tuning");
  ::unsetenv("XDG_CACHE_HOME");
  ::setenv("HOME", "/home/somebody", 1);
  EXPECT_EQ(default_tuning_path(), "/home/somebody/.cache/peal/tuning");
  ::unsetenv("HOME");
  EXPECT_EQ(default_tuning_path(), "");
}

}  // namespace
}  // namespace peal
