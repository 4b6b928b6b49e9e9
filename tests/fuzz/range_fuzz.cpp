// Any text that a server gives as Content-Range is one or none; one that is read holds together,
// and is read again from what is printed of it.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "core/base/text.h"
#include "core/data/http_get.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  const auto range = peal::parse_content_range(text);
  if (!range) return 0;
  if (range->last < range->first || (range->total != 0 && range->last >= range->total))
    std::abort();
  const std::string total = range->total == 0 ? "*" : std::to_string(range->total);
  const auto again =
      peal::parse_content_range(peal::cat("bytes ", range->first, "-", range->last, "/", total));
  if (!again || again->first != range->first || again->last != range->last ||
      again->total != range->total) {
    std::abort();
  }
  return 0;
}
