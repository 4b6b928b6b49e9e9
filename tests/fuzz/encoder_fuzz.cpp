// Any bytes are a vocabulary with an id for each token, or an Error(input).
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "core/data/byte_pairs.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const std::vector<std::string> tokens = peal::parse_encoder(text, "fuzz");
    if (tokens.empty() || tokens.size() > size) std::abort();
    for (const std::string& token : tokens) {
      if (token.empty()) std::abort();
    }
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || error.where() != "fuzz") std::abort();
  }
  return 0;
}
