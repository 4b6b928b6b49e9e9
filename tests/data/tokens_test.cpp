#include "core/data/tokens.h"

#include "core/data/loader.h"
#include "core/data/shard.h"
#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using testing::counting_dataset;
using ::testing::ElementsAre;
using testing::Folder;
using testing::gzip;
using ::testing::HasSubstr;
using testing::input_error;
using testing::shared_data;

std::vector<std::int32_t> record_of(const Dataset& dataset, std::int64_t index) {
  const auto* tokens = static_cast<const std::int32_t*>(dataset.record(index));
  return {tokens, tokens + dataset.record_shape()[0]};
}

// All records, as text.
std::vector<std::string> texts_of(const Dataset& dataset, const Tokenizer& tokenizer) {
  std::vector<std::string> texts;
  for (std::int64_t i = 0; i < dataset.size(); ++i) {
    texts.push_back(tokenizer.decode(record_of(dataset, i)));
  }
  return texts;
}

class TokenFiles : public ::testing::Test {
 protected:
  std::unique_ptr<Dataset> open(const std::string& text, const TokenWindows& windows) {
    return open_tokens({folder_.write("t.txt", text)}, *bytes_, windows);
  }
  std::vector<std::string> texts(const std::string& text, const TokenWindows& windows) {
    return texts_of(*open(text, windows), *bytes_);
  }
  std::string error(const std::string& text, const TokenWindows& windows) {
    return input_error([&] { open(text, windows); });
  }

  Folder folder_;
  std::unique_ptr<Tokenizer> bytes_ = byte_tokenizer();
};

TEST_F(TokenFiles, AreCutIntoWindowsThatShareABorder) {
  EXPECT_THAT(texts("abcdefgh", {.length = 3}), ElementsAre("abcd", "defg"));
  EXPECT_THAT(texts("abcdefg", {.length = 3}), ElementsAre("abcd", "defg"));
  EXPECT_THAT(texts("abcdef", {.length = 3}), ElementsAre("abcd"));
  EXPECT_THAT(texts("abcdef", {.length = 3, .stride = 1}), ElementsAre("abcd", "bcde", "cdef"));
  EXPECT_THAT(texts("abcdefghij", {.length = 1, .stride = 4}), ElementsAre("ab", "ef", "ij"));
  const auto dataset = open("abzdefgh", {.length = 3});
  EXPECT_EQ(dataset->record_dtype(), DType::i32);
  EXPECT_EQ(dataset->record_shape(), Shape{4});
  EXPECT_EQ(dataset->label(0), 'z');
  EXPECT_EQ(dataset->label(1), 'g');
  EXPECT_TRUE(holds_tokens(*dataset));
  EXPECT_FALSE(holds_tokens(*counting_dataset(1)));
}

TEST_F(TokenFiles, PartsOfATextMeetAndKeepCharactersWhole) {
  const std::string text = "0123456789";
  EXPECT_THAT(texts(text, {.length = 6, .end = 0.7}), ElementsAre("0123456"));
  EXPECT_THAT(texts(text, {.length = 2, .begin = 0.7}), ElementsAre("789"));
  // Ten bytes: four in front, a character of four, two behind.
  const std::string wide = "0123\xf0\x9f\x98\x80zz";
  for (const double cut : {0.4, 0.5, 0.6, 0.7}) {
    EXPECT_THAT(texts(wide, {.length = 3, .end = cut}), ElementsAre("0123")) << cut;
    EXPECT_THAT(texts(wide, {.length = 5, .begin = cut}), ElementsAre("\xf0\x9f\x98\x80zz")) << cut;
  }
  EXPECT_THAT(texts(wide, {.length = 1, .begin = 0.8}), ElementsAre("zz"));
  // What is no character may be cut anywhere.
  EXPECT_THAT(texts("01\xff\xfe\x80\x80\x80\x80\x80\x80", {.length = 1, .begin = 0.8}),
              ElementsAre("\x80\x80"));
}

TEST_F(TokenFiles, SeveralStandBehindOneAnother) {
  folder_.write("a.txt", "one");
  folder_.write("b.txt", gzip("two"));
  folder_.write("c.txt", "");
  folder_.write("d.txt", "four");
  const std::vector<std::string> patterns = {folder_ / "*.txt"};
  EXPECT_THAT(texts_of(*open_tokens(patterns, *bytes_, {.length = 9}), *bytes_),
              ElementsAre("onetwofour"));
  EXPECT_THAT(
      texts_of(*open_tokens(patterns, *bytes_, {.length = 3, .begin = 0.25, .end = 0.75}), *bytes_),
      ElementsAre("etwo"));
  const auto characters = open_character_tokenizer(patterns);
  EXPECT_EQ(characters->vocabulary(), 8);
  EXPECT_THAT(characters->encode("eurwtonf"), ElementsAre(0, 6, 4, 7, 5, 3, 2, 1));
  const auto gpt2 = gpt2_tokenizer(shared_data("gpt2/encoder.json"), shared_data("gpt2/vocab.bpe"));
  EXPECT_THAT(texts_of(*open_tokens(patterns, *gpt2, {.length = 4}), *gpt2),
              ElementsAre("one<|endoftext|>two<|endoftext|>four"));
}

TEST_F(TokenFiles, WhatIsWrongIsNamed) {
  EXPECT_THAT(error("abc", {.length = 3}),
              AllOf(HasSubstr("t.txt"), HasSubstr("has 3 tokens"), HasSubstr("takes 4")));
  EXPECT_THAT(error("0123456789", {.length = 3, .begin = 0.9}),
              AllOf(HasSubstr("from 0.9 to 1"), HasSubstr("has 1 tokens")));
  EXPECT_THAT(error("abc", {.length = 0}), HasSubstr("allowed are 1 to"));
  EXPECT_THAT(error("abc", {.length = 1, .stride = -1}), HasSubstr("stride -1"));
  EXPECT_THAT(error("abc", {.length = 1, .begin = 0.5, .end = 0.5}), HasSubstr("0.5 to 0.5"));
  EXPECT_THAT(error("abc", {.length = 1, .begin = -0.1}), HasSubstr("parts of 0 to 1"));
  EXPECT_THAT(input_error([&] { open_tokens({folder_ / "none"}, *bytes_, {.length = 1}); }),
              HasSubstr("none"));
  EXPECT_THAT(input_error([&] { open_character_tokenizer({folder_.write("e", "")}); }),
              AllOf(HasSubstr("characters of"), HasSubstr("no text")));
}

TEST_F(TokenFiles, TokensBeyondTheVocabularyAreFound) {
  const auto dataset = open("abcabcazca", {.length = 3});
  check_tokens(*dataset, 'z' + 1);
  EXPECT_THAT(input_error([&] { check_tokens(*dataset, 'z'); }),
              AllOf(HasSubstr("t.txt"), HasSubstr("record 2 has token 122"),
                    HasSubstr("vocabulary is 122")));
  std::int32_t x[3], labels[3];
  read_tokens(*dataset, 2, 123, x, labels);
  EXPECT_THAT(x, ElementsAre('a', 'z', 'c'));
  EXPECT_THAT(labels, ElementsAre('z', 'c', 'a'));
  EXPECT_THAT(input_error([&] { read_tokens(*dataset, 2, 122, x, labels); }),
              AllOf(HasSubstr("record 2"), HasSubstr("token 122 at place 1")));
}

TEST_F(TokenFiles, AreNotPreprocessed) {
  const auto dataset = open("abcdef", {.length = 3});
  EXPECT_THAT(input_error([&] { Preprocess({{}}, *dataset); }),
              AllOf(HasSubstr("data.preprocess"), HasSubstr("t.txt"), HasSubstr("are tokens")));
}

TEST_F(TokenFiles, GoThroughShards) {
  const auto dataset = open("The quick brown fox jumps over the lazy dog.", {.length = 4});
  const auto shards = folder_ / "shards";
  write_shards(*dataset, shards, {.count = 3});
  EXPECT_EQ(verify_shards(shards), dataset->size());
  const auto back = open_shards(shards);
  EXPECT_EQ(back->record_dtype(), DType::i32);
  EXPECT_EQ(back->size(), dataset->size());
  for (std::int64_t i = 0; i < dataset->size(); ++i) {
    EXPECT_EQ(record_of(*back, i), record_of(*dataset, i));
    EXPECT_EQ(back->label(i), dataset->label(i));
  }
  EXPECT_THAT(input_error([&] { check_tokens(*back, 'x'); }), HasSubstr("manifest.textproto"));
  EXPECT_EQ(inspect_shard(shards / "shard-00001-of-00003.peal").dtype, DType::i32);
}

struct Seen {
  std::vector<std::string> x, labels;
  std::vector<float> weight;
};

Seen batch_of(Loader& loader, std::int64_t step, const Tokenizer& tokenizer) {
  const Batch& batch = loader.acquire(step, 0, 0);
  EXPECT_EQ(batch.x.dtype, DType::i32);
  EXPECT_EQ(batch.labels.dtype, DType::i32);
  EXPECT_EQ(batch.labels.shape, batch.x.shape);
  Seen seen;
  const std::int64_t rows = batch.x.shape[0], length = batch.x.shape[1];
  for (std::int64_t i = 0; i < rows; ++i) {
    const auto row = [&](const Tensor& t) {
      return tokenizer.decode(
          {t.as<std::int32_t>() + i * length, static_cast<std::size_t>(length)});
    };
    seen.x.push_back(row(batch.x));
    seen.labels.push_back(row(batch.labels));
    seen.weight.push_back(batch.weight.as<float>()[i]);
  }
  loader.release(batch);
  return seen;
}

TEST_F(TokenFiles, BecomeBatchesOfTokensAndThoseThatFollow) {
  const std::shared_ptr<const Dataset> dataset = open("abcdefghijklmnop", {.length = 5});
  const auto none = std::make_shared<const Preprocess>(std::vector<PreprocessStep>{}, *dataset);
  LoaderOptions options{.global_batch = 2, .last_step = 2, .shuffle = false, .vocabulary = 128};
  Loader loader(dataset, none, options);
  const Seen first = batch_of(loader, 0, *bytes_);
  EXPECT_THAT(first.x, ElementsAre("abcde", "fghij"));
  EXPECT_THAT(first.labels, ElementsAre("bcdef", "ghijk"));
  EXPECT_THAT(first.weight, ElementsAre(1, 1));
  const Seen last = batch_of(loader, 1, *bytes_);
  const std::string zeros(5, '\0');
  EXPECT_THAT(last.x, ElementsAre("klmno", zeros));
  EXPECT_THAT(last.labels, ElementsAre("lmnop", zeros));
  EXPECT_THAT(last.weight, ElementsAre(1, 0));

  options.vocabulary = 'm';
  Loader narrow(dataset, none, options);
  narrow.release(narrow.acquire(0, 0, 0));
  EXPECT_THAT(input_error([&] { narrow.acquire(1, 0, 0); }), HasSubstr("record 2 has token"));
  options.vocabulary = 128;
  EXPECT_THROW(Loader(counting_dataset(3), none, options), Error);
}

// A run that begins in the middle of an epoch sees what an undisturbed one sees, from shards in
// windows as from the text itself without them.
TEST_F(TokenFiles, ShuffleAndGoOnInMidEpoch) {
  std::string text;
  for (int i = 0; i < 400; ++i) text += cat(i, " ");
  const std::shared_ptr<const Dataset> plain = open(text, {.length = 12});
  write_shards(*plain, folder_ / "shards", {.count = 6});
  const std::shared_ptr<const Dataset> shards = open_shards(folder_ / "shards");
  const auto none = std::make_shared<const Preprocess>(std::vector<PreprocessStep>{}, *plain);
  for (const std::int64_t window : {0, 2}) {
    LoaderOptions options{
        .global_batch = 8, .last_step = 40, .window_shards = window, .vocabulary = 128};
    std::vector<std::string> all;
    Loader whole(shards, none, options);
    for (std::int64_t step = 0; step < 40; ++step) {
      for (std::string& x : batch_of(whole, step, *bytes_).x) all.push_back(std::move(x));
    }
    options.first_step = 23;
    Loader rest(window == 0 ? plain : shards, none, options);
    std::vector<std::string> again;
    for (std::int64_t step = 23; step < 40; ++step) {
      for (std::string& x : batch_of(rest, step, *bytes_).x) again.push_back(std::move(x));
    }
    EXPECT_EQ(again, std::vector<std::string>(all.begin() + 23 * 8, all.end()));
    EXPECT_NE(all[0], "0 1 2 3 4 5 ");
  }
}

}  // namespace
}  // namespace peal
