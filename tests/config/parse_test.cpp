// Reading job files: what is wrong is said with its place, its field and what is allowed.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>

#include "core/base/error.h"
#include "core/config/job.h"

namespace peal {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string parse_error(const std::string& text) {
  try {
    parse_job(text, "job");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::input);
    return error.what();
  }
  return "no error";
}

struct Wrong {
  const char* text;
  const char* message;
};

class ParseErrors : public ::testing::TestWithParam<Wrong> {};

TEST_P(ParseErrors, NamesPlaceFieldAndWhatIsAllowed) {
  EXPECT_THAT(parse_error(GetParam().text), StartsWith(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    Job, ParseErrors,
    ::testing::Values(
        Wrong{
            "train {\n  epoch: 3\n}",
            "job:2:3: train.epoch: no such field; did you mean \"epochs\"? TrainSpec has epochs, "},
        Wrong{"trian { epochs: 3 }",
              "job:1:1: trian: no such field; did you mean \"train\"? JobSpec has train, "},
        Wrong{"schedule { constant { x: 1 } }",
              "job:1:23: schedule.constant.x: no such field; ConstantSpec has no fields"},
        Wrong{"train {\n  epochs: \"three\"\n}",
              "job:2:11: train.epochs: wants a whole number (int32) in [1, inf), not \"three\""},
        Wrong{"train { epochs: 1.5 }",
              "job:1:17: train.epochs: wants a whole number (int32) in [1, inf), not 1.5"},
        Wrong{"train { epochs: 99999999999 }",
              "job:1:17: train.epochs: wants a whole number (int32) in [1, inf), not 99999999999"},
        Wrong{"train { seed: -1 }", "job:1:15: train.seed: wants a whole number (uint64), not -1"},
        Wrong{"train { clip_norm: big }",
              "job:1:20: train.clip_norm: wants a finite number in [0, inf), not big"},
        Wrong{"run { tensorboard: maybe }",
              "job:1:20: run.tensorboard: wants true or false, not maybe"},
        Wrong{"run { directory: here }", "job:1:18: run.directory: wants text in quotes, not here"},
        Wrong{"parallel { reduction: EXACT\n threads: 1 }",
              "job:1:23: parallel.reduction: wants one of RANK_INVARIANT, REPEATABLE, FAST, not "
              "EXACT"},
        Wrong{"model { mlp { hidden: [128, x] } }",
              "job:1:29: model.mlp.hidden: wants a whole number (int32) in [1, 1000000], not x"},
        Wrong{"train: 3",
              "job:1:8: train: wants { fields } of TrainSpec: epochs, max_steps, global_batch, "
              "seed, accumulate_steps, clip_norm, precision, recompute, "
              "loss_scaling, loss_scale, loss_scale_grows_after, cuda_graphs, algorithms, "
              "algorithms_digest, not 3"},
        Wrong{"train { epochs: 3 epochs: 4 }", "job:1:19: train.epochs: is given twice"},
        Wrong{"train {}\ntrain {}", "job:2:1: train: is given twice"},
        Wrong{"model { cnn {} mlp {} }",
              "job:1:16: model.mlp: only one may be given of cnn, mlp, resnet, gpt, rnn"},
        Wrong{"train { epochs 3 }", "job:1:16: train.epochs: write a colon between name and value"},
        Wrong{"train { epochs: 3", "job:1:18: train: the text ends before the closing }"},
        Wrong{"train {", "job:1:8: train: the text ends before the closing }"},
        Wrong{"train { epochs:", "job:1:16: train: the text ends before the closing }"}));

TEST(Parse, SyntaxErrorsNameTheirPlace) {
  EXPECT_THAT(parse_error("name: \"a\"\n}"), StartsWith("job:2:1: name: syntax error: "));
  EXPECT_THAT(parse_error("name: \"a\n"), StartsWith("job:1:"));
  EXPECT_THAT(parse_error("train { epochs: }"), StartsWith("job:1:17: train.epochs: syntax error"));
  EXPECT_THAT(parse_error("= 3"), StartsWith("job:1:1: syntax error: "));
  EXPECT_THAT(parse_error("name: \"a\" trailing"), StartsWith("job:1:11: trailing: no such field"));
}

// The library's complaint quotes the job, whose words are not the library's.
TEST(Parse, WordsOfTheJobAreNotTakenForTheLibrarys) {
  EXPECT_THAT(parse_error("optimizer 'another member of oneof'"),
              StartsWith("job:1:11: optimizer: syntax error: Expected \"{\""));
  EXPECT_EQ(parse_error("train { epochs 'is specified multiple times.' }"),
            "job:1:16: train.epochs: write a colon between name and value");
}

TEST(Parse, BinaryAndHugeTextsAreRefused) {
  EXPECT_EQ(parse_error(std::string("name: \"a\"\n  \0x", 14)),
            "job:2:3: byte 0 is no text; a job is a text file");
  EXPECT_THAT(parse_error(std::string((1 << 20) + 1, ' ')), HasSubstr("at most 1048576"));
  EXPECT_EQ(parse_error(std::string(1 << 20, ' ')), "no error");
}

TEST(Parse, EveryTruncationParsesOrThrowsInput) {
  const std::string text =
      "name: \"x\" # comment\nmodel { mlp { hidden: [128, 64] dropout: 0.5 } }\n"
      "data { preprocess { standardize { by: GIVEN mean: 1e-3 std: 2 } } }";
  ASSERT_EQ(parse_error(text), "no error");
  for (std::size_t n = 0; n < text.size(); ++n) parse_error(text.substr(0, n));
}

TEST(Parse, RandomBytesNeverDoWorseThanAnError) {
  std::mt19937 random(7);
  const std::string base = "train { epochs: 3 } model { mlp { hidden: [1, 2] } } name: 'x'";
  for (int i = 0; i < 3000; ++i) {
    std::string text = base;
    for (int k = 0; k < 4; ++k) text[random() % text.size()] = static_cast<char>(random());
    parse_error(text);
  }
}

TEST(Load, ReadsAFileAndNamesAMissingOne) {
  char folder[] = "/tmp/peal-config-XXXXXX";
  ASSERT_NE(mkdtemp(folder), nullptr);
  const std::filesystem::path path = std::filesystem::path(folder) / "job.textproto";
  std::ofstream(path) << "train { epochs: 7 }";
  EXPECT_EQ(load_job(path).train().epochs(), 7);
  std::ofstream(path) << "train { epochs: seven }";
  try {
    load_job(path);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.where(), path.string() + ":1:17: train.epochs");
  }
  std::filesystem::resize_file(path, (1 << 20) + 1);
  EXPECT_THROW(load_job(path), Error);
  std::filesystem::remove_all(folder);
  EXPECT_THROW(load_job(path), Error);
}

}  // namespace
}  // namespace peal
