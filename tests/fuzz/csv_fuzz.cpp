// The CSV reader on any bytes: a table whose sizes agree, or Error(input). The first byte chooses
// the options.
#include <cmath>
#include <cstdint>
#include <cstdlib>

#include "core/base/error.h"
#include "core/data/csv.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const peal::CsvOptions options = {.header = (data[0] & 1) != 0,
                                    .label_column = (data[0] & 2) != 0 ? "label" : "-1",
                                    .delimiter = (data[0] & 4) != 0 ? '\t' : ','};
  try {
    const peal::CsvTable table =
        peal::parse_csv(std::as_bytes(std::span(data + 1, size - 1)), options, "fuzz");
    const auto features = static_cast<std::size_t>(table.features);
    if (table.labels.empty() || features < 1) std::abort();
    if (table.values.size() != table.labels.size() * features) std::abort();
    for (const float value : table.values) {
      if (!std::isfinite(value)) std::abort();
    }
  } catch (const peal::Error& error) {
    if (error.kind() != peal::ErrorKind::input) std::abort();
  }
  return 0;
}
