// Text of any bytes under a small vocabulary: it comes back, its words are all of it, and each word
// becomes what GPT-2's own way of merging makes of it: all pairs of the strongest merge at once.
#include <cstdint>
#include <cstdlib>

#include "core/data/byte_pairs.h"
#include "core/data/text_words.h"

namespace {

const std::vector<peal::Merge>& merges() {
  static const std::vector<peal::Merge> list = peal::parse_merges(
      "a a\na b\nb a\nab ab\naa aa\nĠ a\nĠa b\nb b\nĠ Ġ\nb aa\nĊ Ċ\n' s\nÃ ©\nabab a\naa b\n",
      "merges");
  return list;
}

std::vector<std::string> slowly_merged(std::string_view word) {
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    const auto in_word = [&](const peal::Merge& merge) {
      for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
        if (parts[i] == merge.first && parts[i + 1] == merge.second) return true;
      }
      return false;
    };
    const peal::Merge* strongest = nullptr;
    for (const peal::Merge& merge : merges()) {
      if (strongest == nullptr && in_word(merge)) strongest = &merge;
    }
    if (strongest == nullptr) return parts;
    std::vector<std::string> merged;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      const bool both =
          i + 1 < parts.size() && parts[i] == strongest->first && parts[i + 1] == strongest->second;
      merged.push_back(both ? parts[i] + parts[i + 1] : parts[i]);
      if (both) ++i;
    }
    parts = merged;
  }
}

std::unique_ptr<peal::Tokenizer> make_tokenizer() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  for (const auto& [left, right] : merges()) tokens.push_back(left + right);
  return peal::byte_pair_tokenizer(tokens, merges(), "tokens", "merges");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::unique_ptr<peal::Tokenizer> tokenizer = make_tokenizer();
  static peal::TextWords words;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  std::string all, slowly;
  std::vector<std::string> parts;
  words.split(text, [&](std::string_view word) {
    if (word.empty()) std::abort();
    all += word;
    for (std::string& part : slowly_merged(word)) parts.push_back(std::move(part));
  });
  if (all != text) std::abort();
  std::vector<std::string> tokens;
  for (const std::int32_t id : tokenizer->encode(text)) tokens.emplace_back(tokenizer->bytes(id));
  if (tokens != parts) std::abort();
  return 0;
}
