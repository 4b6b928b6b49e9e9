// Any text is a tuning or an Error(input) that names where it stood; what is read has costs that
// can be, and is read again from what is printed of it.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "comm/tuning.h"
#include "core/base/error.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  try {
    const peal::Tuning tuning = peal::parse_tuning(text, "fuzz");
    if (!tuning.inside && !tuning.between) std::abort();
    for (const double value : tuning.costs.values()) {
      if (!(value >= 0 && value <= 10)) std::abort();
    }
    for (const auto& factors : tuning.costs.factors) {
      for (const double factor : factors) {
        if (!(factor > 0 && factor <= 1000)) std::abort();
      }
    }
    const std::string printed = peal::print_tuning(tuning);
    if (peal::print_tuning(peal::parse_tuning(printed, "printed")) != printed) std::abort();
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input || !error.where().starts_with("fuzz")) std::abort();
  }
  return 0;
}
