// The parsers of byte_pairs.h.
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "core/data/byte_pairs.h"
#include "core/data/utf8.h"

namespace peal {
namespace {

using Json = nlohmann::json;

constexpr std::uint64_t kMostTokens = std::uint64_t{1} << 24;

bool is_seen(int byte) {
  return (byte > 0x20 && byte < 0x7f) || (byte > 0xa0 && byte != 0xad);
}

// By character from U+0000: the byte that it stands for, or -1.
class WrittenBytes {
 public:
  WrittenBytes() {
    bytes_.fill(-1);
    std::size_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      bytes_[is_seen(byte) ? static_cast<std::size_t>(byte) : next++] = byte;
    }
  }

  // Nothing where a character stands for no byte.
  std::optional<std::string> read(std::string_view written) const {
    std::string out;
    while (!written.empty()) {
      const Utf8Character character = utf8_character(written);
      if (character.bytes == 0 || character.code >= bytes_.size()) return {};
      const int byte = bytes_[character.code];
      if (byte < 0) return {};
      out += static_cast<char>(byte);
      written.remove_prefix(character.bytes);
    }
    return out;
  }

 private:
  std::array<int, 0x100 + 68> bytes_;  // 68 bytes are not seen
};

const WrittenBytes& written_bytes() {
  static const WrittenBytes table;
  return table;
}

// Reads the object as it comes: a parsed one would have lost tokens that are there twice.
class EncoderReader final : public nlohmann::json_sax<Json> {
 public:
  explicit EncoderReader(std::string where) : where_(std::move(where)) {}

  std::vector<std::string> tokens() && {
    if (entries_.empty()) fail_input(where_, "holds no tokens");
    std::vector<std::string> tokens(entries_.size());
    for (auto& [id, bytes] : entries_) {
      if (id >= tokens.size()) {
        fail_input(where_, "token ", shown(bytes), " has id ", id, "; the ids of ", tokens.size(),
                   " tokens are 0 to ", tokens.size() - 1, ", each once");
      }
      if (!tokens[id].empty()) {
        fail_input(where_, "id ", id, " is given twice, to ", shown(tokens[id]), " and to ",
                   shown(bytes));
      }
      tokens[id] = std::move(bytes);
    }
    return tokens;
  }

  bool key(string_t& text) override {
    token_ = text;
    return true;
  }
  bool number_unsigned(number_unsigned_t id) override {
    if (depth_ != 1) fail_kind("a number");
    if (id >= kMostTokens) {
      fail_input(where_, "token ", shown(token_), " has id ", id, "; allowed are ids below ",
                 kMostTokens);
    }
    const std::optional<std::string> bytes = written_bytes().read(token_);
    if (!bytes || bytes->empty()) {
      fail_input(where_, "token ", shown(token_), " (id ", id,
                 bytes ? ") is empty" : ") has a character that stands for no byte");
    }
    if (!seen_.insert(token_).second)
      fail_input(where_, "token ", shown(token_), " is there twice");
    entries_.emplace_back(id, *bytes);
    return true;
  }
  bool start_object(std::size_t /*elements*/) override {
    if (++depth_ > 1) fail_kind("an object");
    return true;
  }
  bool end_object() override { return true; }
  bool null() override { fail_kind("null"); }
  bool boolean(bool /*value*/) override { fail_kind("true or false"); }
  bool number_integer(number_integer_t /*value*/) override { fail_kind("a negative number"); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    fail_kind("a fraction");
  }
  bool string(string_t& /*value*/) override { fail_kind("a text"); }
  bool binary(binary_t& /*value*/) override { fail_kind("bytes"); }
  bool start_array(std::size_t /*elements*/) override { fail_kind("a list"); }
  bool end_array() override { return true; }
  bool parse_error(std::size_t position, const std::string& /*token*/,
                   const nlohmann::detail::exception& error) override {
    fail_input(where_, "is no JSON object of tokens and ids, at byte ", position, ": ",
               error.what());
  }

 private:
  [[noreturn]] void fail_kind(const char* what) const {
    fail_input(where_, token_.empty() ? "the whole" : cat("token ", shown(token_)), " is ", what,
               "; allowed is one object of tokens, each with its id");
  }

  std::string where_;
  std::string token_;
  int depth_ = 0;
  // By number of entries, not by id: a large id takes no memory.
  std::vector<std::pair<number_unsigned_t, std::string>> entries_;
  std::unordered_set<std::string> seen_;
};

}  // namespace

std::vector<std::string> parse_encoder(std::string_view json, const std::string& where) {
  EncoderReader reader(where);
  Json::sax_parse(json.begin(), json.end(), &reader);
  return std::move(reader).tokens();
}

std::vector<Merge> parse_merges(std::string_view text, const std::string& where) {
  std::vector<Merge> merges;
  std::unordered_set<std::string> made;
  std::size_t number = 0;
  const auto part = [&](std::string_view written) {
    const std::string place = cat(where, ":", number);
    std::optional<std::string> bytes = written_bytes().read(written);
    if (!bytes || bytes->empty()) {
      fail_input(place, shown(written),
                 bytes ? " is empty" : " has a character that stands for no byte",
                 "; a line is two tokens with a space between them");
    }
    if (bytes->size() > 1 && !made.contains(*bytes)) {
      fail_input(place, shown(written), " is made by no merge before this one");
    }
    return *std::move(bytes);
  };
  while (!text.empty()) {
    ++number;
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) {
      fail_input(cat(where, ":", number), "the file ends within a line: it was cut short");
    }
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(end + 1);
    if (number == 1 && line.starts_with("#version")) continue;
    const std::size_t space = std::min(line.find(' '), line.size());
    Merge merge{part(line.substr(0, space)), part(line.substr(std::min(space + 1, line.size())))};
    if (!made.insert(merge.first + merge.second).second) {
      fail_input(cat(where, ":", number), shown(line), " makes what a merge before this one makes");
    }
    merges.push_back(std::move(merge));
  }
  return merges;
}

}  // namespace peal
