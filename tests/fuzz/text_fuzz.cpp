// Text of any bytes: records that lie inside of it and are no longer than asked, or Error(input).
// The first byte chooses the options.
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "core/data/text.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const peal::TextOptions options = {.lines = (data[0] & 1) != 0,
                                     .length = 1 + (data[0] >> 3),
                                     .label_first = (data[0] & 2) != 0,
                                     .cut_long = (data[0] & 4) != 0};
  const auto text = std::as_bytes(std::span(data + 1, size - 1));
  try {
    std::uint64_t end = 0;
    for (const peal::TextPiece& piece : peal::parse_text(text, options, "fuzz")) {
      if (piece.offset < end || piece.bytes > static_cast<std::uint64_t>(options.length)) {
        std::abort();
      }
      end = piece.offset + piece.bytes;
      if (end > text.size()) std::abort();
      if (!(piece.label >= 0 && piece.label <= 16777216)) std::abort();
    }
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
  return 0;
}
