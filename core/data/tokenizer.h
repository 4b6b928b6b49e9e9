// Text as token ids, and back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace peal {

// For one thread.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual const std::string& name() const = 0;  // for messages: the kind, or its file
  virtual std::int64_t vocabulary() const = 0;  // ids are 0 to below it
  virtual std::optional<std::int32_t> end_of_text() const { return {}; }

  // Adds the ids of `text`, which may be any bytes: decode() of them is `text` again. Throws
  // Error(input) that names the place where the text has a character that is none of this
  // tokenizer.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) = 0;
  // The bytes that an id stands for: at times only part of a character. Throws Error(input) for an
  // id that is none.
  std::string_view bytes(std::int32_t id) const;

  std::vector<std::int32_t> encode(std::string_view text);
  std::string decode(std::span<const std::int32_t> ids) const;

 protected:
  virtual std::string_view bytes_of(std::size_t id) const = 0;
};

// A byte an id: 256 of them.
std::unique_ptr<Tokenizer> byte_tokenizer();

// The different characters of a text, as UTF-8, in the order of their code points; behind them the
// bytes that are no UTF-8, each a character by itself.
class Alphabet {
 public:
  void add(std::string_view text);
  // A character a string, in order. Empty where no text was added.
  std::vector<std::string> characters() const;

 private:
  std::vector<bool> seen_;  // by code; what is no UTF-8 has 0x110000 + byte
};
// Throws Error(input) at `name` for no characters at all.
std::unique_ptr<Tokenizer> character_tokenizer(std::string name,
                                               std::vector<std::string> characters);

// GPT-2's byte pairs (Radford et al. 2019, section 2.2) from its two files: encoder.json (or
// vocab.json) and vocab.bpe (or merges.txt); byte_pairs.h says what is checked. The text of a
// special token such as <|endoftext|> is encoded as any other text.
std::unique_ptr<Tokenizer> gpt2_tokenizer(const std::filesystem::path& encoder,
                                          const std::filesystem::path& merges);

}  // namespace peal
