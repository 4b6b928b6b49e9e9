#include "core/data/tokenizer.h"

#include <algorithm>
#include <cstdio>

#include "core/base/error.h"
#include "core/data/utf8.h"

namespace peal {
namespace {

constexpr std::uint32_t kNoUtf8 = 0x110000;  // the codes of bytes that are no UTF-8 begin here
constexpr std::uint32_t kCodes = kNoUtf8 + 256;

// The character that `text`, which is not empty, begins with, or its first byte.
Utf8Character next_character(std::string_view text) {
  const Utf8Character character = utf8_character(text);
  if (character.bytes > 0) return character;
  return {kNoUtf8 + static_cast<std::uint8_t>(text[0]), 1};
}

class Bytes final : public Tokenizer {
 public:
  Bytes() {
    for (int byte = 0; byte < 256; ++byte) all_ += static_cast<char>(byte);
  }
  const std::string& name() const override { return name_; }
  std::int64_t vocabulary() const override { return 256; }
  void encode(std::string_view text, std::vector<std::int32_t>& ids) override {
    ids.reserve(ids.size() + text.size());
    for (const char c : text) ids.push_back(static_cast<std::uint8_t>(c));
  }

 protected:
  std::string_view bytes_of(std::size_t id) const override {
    return std::string_view(all_).substr(id, 1);
  }

 private:
  std::string name_ = "bytes", all_;
};

class Characters final : public Tokenizer {
 public:
  Characters(std::string name, std::vector<std::string> characters)
      : name_(std::move(name)), characters_(std::move(characters)), ids_(kCodes, -1) {
    if (characters_.empty()) fail_input(name_, "holds no text; its characters are the vocabulary");
    for (const std::string& character : characters_) {
      const std::uint32_t code = next_character(character).code;
      ids_[code] = static_cast<std::int32_t>(&character - characters_.data());
    }
  }
  const std::string& name() const override { return name_; }
  std::int64_t vocabulary() const override { return static_cast<std::int64_t>(characters_.size()); }
  void encode(std::string_view text, std::vector<std::int32_t>& ids) override {
    for (std::size_t at = 0; at < text.size();) {
      const Utf8Character character = next_character(text.substr(at));
      const std::int32_t id = ids_[character.code];
      if (id < 0) fail_unknown(character, at);
      ids.push_back(id);
      at += character.bytes;
    }
  }

 protected:
  std::string_view bytes_of(std::size_t id) const override { return characters_[id]; }

 private:
  [[noreturn]] void fail_unknown(const Utf8Character& character, std::size_t at) const {
    char code[32];
    if (character.code < kNoUtf8) {
      std::snprintf(code, sizeof code, "character U+%04X", character.code);
    } else {
      std::snprintf(code, sizeof code, "byte 0x%02X", character.code - kNoUtf8);
    }
    fail_input(name_, "the text has ", code, " at byte ", at, ", which is none of the ",
               characters_.size(), " characters of this vocabulary");
  }

  std::string name_;
  std::vector<std::string> characters_;
  std::vector<std::int32_t> ids_;  // by code; -1: none
};

}  // namespace

std::string_view Tokenizer::bytes(std::int32_t id) const {
  if (id < 0 || id >= vocabulary()) {
    fail_input(name(), "token ", id, "; allowed are 0 to ", vocabulary() - 1);
  }
  return bytes_of(static_cast<std::size_t>(id));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) {
  std::vector<std::int32_t> ids;
  encode(text, ids);
  return ids;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += bytes(id);
  return text;
}

std::unique_ptr<Tokenizer> byte_tokenizer() {
  return std::make_unique<Bytes>();
}

void Alphabet::add(std::string_view text) {
  seen_.resize(kCodes);
  while (!text.empty()) {
    const Utf8Character character = next_character(text);
    seen_[character.code] = true;
    text.remove_prefix(character.bytes);
  }
}

std::vector<std::string> Alphabet::characters() const {
  std::vector<std::string> all;
  for (std::uint32_t code = 0; code < seen_.size(); ++code) {
    if (!seen_[code]) continue;
    all.push_back(code < kNoUtf8 ? utf8_bytes(code)
                                 : std::string(1, static_cast<char>(code - kNoUtf8)));
  }
  return all;
}

std::unique_ptr<Tokenizer> character_tokenizer(std::string name,
                                               std::vector<std::string> characters) {
  return std::make_unique<Characters>(std::move(name), std::move(characters));
}

}  // namespace peal
