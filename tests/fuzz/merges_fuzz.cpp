// Any bytes are merges, each of parts that are there by then, or an Error(input). What they make is
// a vocabulary under which every text comes back.
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "core/data/byte_pairs.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const std::vector<peal::Merge> merges = peal::parse_merges(text, "fuzz");
    std::vector<std::string> tokens;
    for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
    for (const auto& [left, right] : merges) tokens.push_back(left + right);
    const auto tokenizer = peal::byte_pair_tokenizer(tokens, merges, "tokens", "merges");
    if (tokenizer->decode(tokenizer->encode(text)) != text) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || !error.where().starts_with("fuzz:")) std::abort();
  }
  return 0;
}
