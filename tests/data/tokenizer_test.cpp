#include "core/data/tokenizer.h"

#include <sstream>

#include "core/data/byte_pairs.h"
#include "core/data/text_words.h"
#include "core/data/utf8.h"
#include "tests/data/support.h"

namespace peal {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::Folder;
using ::testing::HasSubstr;
using testing::input_error;
using testing::shared_data;

std::string from_hex(const std::string& hex) {
  std::string bytes;
  for (std::size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return bytes;
}

std::string all_bytes() {
  std::string bytes;
  for (int i = 0; i < 65536; ++i) bytes += {static_cast<char>(i >> 8), static_cast<char>(i)};
  return bytes;
}

std::unique_ptr<Tokenizer> gpt2() {
  return gpt2_tokenizer(shared_data("gpt2/encoder.json"), shared_data("gpt2/vocab.bpe"));
}

TEST(Utf8, TellsCharactersFromOtherBytes) {
  const std::pair<std::string, std::size_t> rows[] = {{"", 0},
                                                      {"a", 1},
                                                      {"\x7f", 1},
                                                      {"\xc2\x80", 2},
                                                      {"\xc0\x80", 0},
                                                      {"\xc1\xbf", 0},
                                                      {"\xdf\xbf", 2},
                                                      {"\xe0\xa0\x80", 3},
                                                      {"\xc3", 0},
                                                      {"\xe0\x9f\xbf", 0},
                                                      {"\xed\x9f\xbf", 3},
                                                      {"\xed\xa0\x80", 0},
                                                      {"\xc3x", 0},
                                                      {"\xef\xbf\xbf", 3},
                                                      {"\xf0\x90\x80\x80", 4},
                                                      {"\xf0\x8f\xbf\xbf", 0},
                                                      {"\x80", 0},
                                                      {"\xf4\x8f\xbf\xbf", 4},
                                                      {"\xf4\x90\x80\x80", 0},
                                                      {"\xf5\x80\x80\x80", 0}};
  for (const auto& [text, bytes] : rows) {
    EXPECT_EQ(utf8_character(text).bytes, bytes) << ::testing::PrintToString(text);
  }
  for (std::uint32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    const Utf8Character character = utf8_character(utf8_bytes(code));
    ASSERT_EQ(character.code, code);
    ASSERT_EQ(character.bytes, utf8_bytes(code).size());
  }
  EXPECT_EQ(utf8_prefix("0123456789\xc3\xa9\xe2\x82x"), 12u);
  EXPECT_EQ(utf8_prefix("0123456\xff"), 7u);
}

TEST(Utf8, KnowsWhatMayBecomeACharacter) {
  for (const char* text : {"\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xf0", "\xe2"}) {
    EXPECT_TRUE(utf8_begins(text)) << text;
  }
  for (const char* text : {"", "a", "\xff", "\xc3x", "\xe0\x80", "\xed\xa0", "\xc3\xa9", "\x80"}) {
    EXPECT_FALSE(utf8_begins(text)) << text;
  }
}

TEST(BytesTokenizer, ABytesIdIsItsValue) {
  const auto tokenizer = byte_tokenizer();
  EXPECT_EQ(tokenizer->vocabulary(), 256);
  EXPECT_THAT(tokenizer->encode(std::string_view("a\xff\0", 3)), ElementsAre(97, 255, 0));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all_bytes())), all_bytes());
  EXPECT_THAT(input_error([&] { tokenizer->bytes(256); }),
              AllOf(HasSubstr("token 256"), HasSubstr("0 to 255")));
  EXPECT_THAT(input_error([&] { tokenizer->bytes(-1); }), HasSubstr("token -1"));
}

TEST(CharacterTokenizer, CountsTheCharactersOfShakespeare) {
  const std::string text = read_file(shared_data("tinyshakespeare/input.txt"));
  Alphabet alphabet;
  alphabet.add(text);
  const auto tokenizer = character_tokenizer("input.txt", alphabet.characters());
  EXPECT_EQ(tokenizer->vocabulary(), 65);
  // In the order of the characters: newline, space, punctuation, capitals, small letters.
  EXPECT_THAT(tokenizer->encode("hii there\nAZ"),
              ElementsAre(46, 47, 47, 1, 58, 46, 43, 56, 43, 0, 13, 38));
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  EXPECT_THAT(input_error([&] { tokenizer->encode("ab\xe2\x82\xac"); }),
              AllOf(HasSubstr("input.txt"), HasSubstr("U+20AC"), HasSubstr("byte 2"),
                    HasSubstr("65 characters")));
  EXPECT_THAT(input_error([&] { tokenizer->encode("\xff"); }), HasSubstr("byte 0xFF"));
}

TEST(CharacterTokenizer, ACharacterMayBeSeveralBytesOrNone) {
  Alphabet alphabet;
  alphabet.add("z\xff\xc3\xa9");
  alphabet.add("a\x80z");
  const auto tokenizer = character_tokenizer("t", alphabet.characters());
  EXPECT_EQ(tokenizer->vocabulary(), 5);
  EXPECT_THAT(tokenizer->encode("az\xc3\xa9\x80\xff"), ElementsAre(0, 1, 2, 3, 4));
  EXPECT_EQ(tokenizer->bytes(2), "\xc3\xa9");
  EXPECT_THAT(input_error([] { character_tokenizer("empty.txt", Alphabet().characters()); }),
              AllOf(HasSubstr("empty.txt"), HasSubstr("no text")));
}

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  TextWords().split(text, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

TEST(TextWords, AreGpt2s) {
  EXPECT_THAT(words_of("I'm  here,\n\n they've 12 !?x"),
              ElementsAre("I", "'m", " ", " here", ",", "\n\n", " they", "'ve", " 12", " !?", "x"));
  EXPECT_THAT(words_of("\t\ta \n"), ElementsAre("\t", "\t", "a", " \n"));
  EXPECT_THAT(words_of("\xc3\xa9t\xc3\xa9 \xd9\xa3x"),
              ElementsAre("\xc3\xa9t\xc3\xa9", " \xd9\xa3", "x"));
}

TEST(TextWords, BytesThatAreNoUtf8StandApart) {
  EXPECT_THAT(words_of("ab\xff\xfe ab  \xc3"), ElementsAre("ab", "\xff\xfe", " ab", "  ", "\xc3"));
  EXPECT_THAT(words_of("\xed\xa0\x80x"), ElementsAre("\xed\xa0\x80", "x"));
}

TEST(Gpt2Tokenizer, EncodesAsTheOriginal) {
  const auto tokenizer = gpt2();
  EXPECT_EQ(tokenizer->vocabulary(), 50257);
  EXPECT_EQ(tokenizer->end_of_text(), 50256);
  std::istringstream golden(
      read_file(std::filesystem::path(PEAL_SOURCE_DIR) / "tests/golden/gpt2_tokens.txt"));
  int texts = 0;
  for (std::string line, first; std::getline(golden, line);) {
    std::istringstream fields(line);
    fields >> first;
    if (first == "characters") break;
    const std::string text = from_hex(first);
    std::vector<std::int32_t> ids;
    for (std::int32_t id; fields >> id;) ids.push_back(id);
    EXPECT_EQ(tokenizer->encode(text), ids) << text;
    EXPECT_EQ(tokenizer->decode(ids), text);
    ++texts;
  }
  EXPECT_EQ(texts, 36);
}

TEST(Gpt2Tokenizer, KnowsEveryCharacterAsTheOriginal) {
  const std::string golden =
      read_file(std::filesystem::path(PEAL_SOURCE_DIR) / "tests/golden/gpt2_tokens.txt");
  const std::size_t at = golden.find("characters ");
  ASSERT_NE(at, std::string::npos);
  const auto tokenizer = gpt2();
  std::uint64_t hash = 0;
  for (std::uint32_t code = 1; code < 0x110000; ++code) {
    if (code >= 0xd800 && code < 0xe000) continue;
    for (const std::int32_t id : tokenizer->encode("x" + utf8_bytes(code) + "7")) {
      hash = hash * 1099511628211 + static_cast<std::uint64_t>(id) + 1;
    }
  }
  EXPECT_EQ(hash, std::stoull(golden.substr(at + 11)));
}

// nanoGPT's readme gives these two numbers for the first nine tenths of the text and the rest.
TEST(Gpt2Tokenizer, CountsTheTokensOfShakespeare) {
  const std::string text = read_file(shared_data("tinyshakespeare/input.txt"));
  const auto tokenizer = gpt2();
  const std::size_t cut = text.size() * 9 / 10;
  EXPECT_EQ(tokenizer->encode(std::string_view(text).substr(0, cut)).size(), 301966u);
  EXPECT_EQ(tokenizer->encode(std::string_view(text).substr(cut)).size(), 36059u);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
}

TEST(Gpt2Tokenizer, AnyBytesComeBack) {
  const auto tokenizer = gpt2();
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(all_bytes())), all_bytes());
  for (int first = 0; first < 256; ++first) {
    const std::string text = {'a', static_cast<char>(first), ' ', static_cast<char>(first), '\n'};
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
}

// What kept words gave the first time they give again, also after they were forgotten.
TEST(Gpt2Tokenizer, ForgetsWordsAndEncodesThemAgain) {
  const auto tokenizer = gpt2();
  std::string text;
  for (std::int64_t i = 0; i < 70000; ++i)
    text += cat(" word", i % 26, static_cast<char>('a' + i % 26), i * i);
  const std::vector<std::int32_t> ids = tokenizer->encode(text);
  EXPECT_EQ(tokenizer->encode(text), ids);
  EXPECT_EQ(tokenizer->decode(ids), text);
}

// Quadratic work would take hours here.
TEST(Gpt2Tokenizer, ALongWordTakesNoLonger) {
  const auto tokenizer = gpt2();
  for (const char* piece : {"a", " ", "\n", "=", "\xff", "ab", "\xe4\xbd\xa0"}) {
    std::string word;
    while (word.size() < 1000000) word += piece;
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(word)), word) << piece;
  }
}

std::string encoder_error(const std::string& json) {
  return input_error([&] { parse_encoder(json, "encoder.json"); });
}

TEST(EncoderFile, WhatIsWrongIsNamed) {
  EXPECT_THAT(parse_encoder(R"({"b": 1, "a": 0, "\u0120x": 2})", "e"), ElementsAre("a", "b", " x"));
  EXPECT_THAT(encoder_error(""), AllOf(HasSubstr("encoder.json"), HasSubstr("byte")));
  EXPECT_THAT(encoder_error(R"({"a": 0, "b")"), HasSubstr("is no JSON object"));
  EXPECT_THAT(encoder_error(R"({"a": 0} x)"), HasSubstr("is no JSON object"));
  EXPECT_THAT(encoder_error("{}"), HasSubstr("holds no tokens"));
  EXPECT_THAT(encoder_error("[1]"), HasSubstr("the whole is a list"));
  EXPECT_THAT(encoder_error("7"), HasSubstr("the whole is a number"));
  EXPECT_THAT(encoder_error(R"({"a": {"b": 0}})"), HasSubstr("token \"a\" is an object"));
  EXPECT_THAT(encoder_error(R"({"a": "b"})"), HasSubstr("token \"a\" is a text"));
  EXPECT_THAT(encoder_error(R"({"a": -1})"), HasSubstr("a negative number"));
  EXPECT_THAT(encoder_error(R"({"a": 0.5})"), HasSubstr("a fraction"));
  EXPECT_THAT(encoder_error(R"({"a": 0, "a": 1})"), HasSubstr("token \"a\" is there twice"));
  EXPECT_THAT(encoder_error(R"({"a": 0, "b": 0})"),
              AllOf(HasSubstr("id 0 is given twice"), HasSubstr("\"a\""), HasSubstr("\"b\"")));
  EXPECT_THAT(encoder_error(R"({"a": 0, "b": 2})"), AllOf(HasSubstr("id 2"), HasSubstr("0 to 1")));
  EXPECT_THAT(encoder_error(R"({"a": 16777215})"), HasSubstr("id 16777215"));
  EXPECT_THAT(encoder_error(R"({"a": 18446744073709551615})"), HasSubstr("below 16777216"));
  EXPECT_THAT(encoder_error(R"({"a b": 0})"), HasSubstr("stands for no byte"));
  EXPECT_THAT(encoder_error(R"({"": 0})"), HasSubstr("is empty"));
}

std::string merges_error(const std::string& text) {
  return input_error([&] { parse_merges(text, "vocab.bpe"); });
}

TEST(MergesFile, WhatIsWrongIsNamed) {
  EXPECT_THAT(parse_merges("#version: 0.2\na b\nab \xc4\xa0\n", "m"),
              ElementsAre(Merge{"a", "b"}, Merge{"ab", " "}));
  EXPECT_THAT(merges_error("a b\nc d"), AllOf(HasSubstr("vocab.bpe:2"), HasSubstr("cut short")));
  EXPECT_THAT(merges_error("a b\n\n"), AllOf(HasSubstr("vocab.bpe:2"), HasSubstr("is empty")));
  EXPECT_THAT(merges_error("a\n"), HasSubstr("is empty"));
  EXPECT_THAT(merges_error("a b c\n"), HasSubstr("\"b c\" has a character"));
  EXPECT_THAT(merges_error("a b\r\n"), HasSubstr("has a character"));
  EXPECT_THAT(merges_error("ab c\n"), HasSubstr("\"ab\" is made by no merge before"));
  EXPECT_THAT(merges_error("a b\na b\n"), AllOf(HasSubstr("vocab.bpe:2"), HasSubstr("before")));
  EXPECT_THAT(merges_error("a b\nb c\na bc\nab c\n"), HasSubstr("vocab.bpe:4"));
  EXPECT_THAT(merges_error("#version\n#version x\n"), HasSubstr("vocab.bpe:2"));
}

TEST(Gpt2Tokenizer, FilesThatDoNotBelongTogetherAreRefused) {
  const Folder folder;
  const std::string merges = read_file(shared_data("gpt2/vocab.bpe"));
  const auto encoder = shared_data("gpt2/encoder.json");
  const std::string fewer = merges.substr(0, merges.rfind('\n', merges.size() - 2) + 1);
  EXPECT_THAT(input_error([&] { gpt2_tokenizer(encoder, folder.write("fewer", fewer)); }),
              AllOf(HasSubstr("fewer"), HasSubstr("token 50255"), HasSubstr("cut short")));
  const std::string more = merges + "\xc4\x80 \xc4\x80\n";
  EXPECT_THAT(input_error([&] { gpt2_tokenizer(encoder, folder.write("more", more)); }),
              AllOf(HasSubstr("encoder.json"), HasSubstr("merge 50001"), HasSubstr("more")));
  EXPECT_THAT(input_error([&] {
                gpt2_tokenizer(folder.write("two.json", R"({"a": 0, "b": 1})"),
                               folder.write("one.bpe", "a b\n"));
              }),
              AllOf(HasSubstr("two.json"), HasSubstr("byte 0")));
  EXPECT_THAT(input_error([&] { gpt2_tokenizer(folder / "none", encoder); }), HasSubstr("none"));
}

}  // namespace
}  // namespace peal
