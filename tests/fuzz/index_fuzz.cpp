// Any text is an index of weights in several files, all beside it, or an Error(input).
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/base/error.h"
#include "core/state/weights_file.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    for (const auto& [tensor, file] : peal::parse_weights_index(text, "fuzz")) {
      if (file.empty() || file == "." || file == ".." || file.find('/') != std::string::npos) {
        std::abort();
      }
    }
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
  return 0;
}
