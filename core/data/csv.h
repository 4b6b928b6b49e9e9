// CSV in memory (RFC 4180).
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/data/dataset.h"

namespace peal {

struct CsvTable {
  std::int64_t features = 0;  // columns without the label
  std::vector<float> values;  // (labels.size(), features)
  std::vector<float> labels;
};

// `file` is plain or gzip, and is parsed as it is inflated: memory is taken for the numbers and
// for one row. Throws Error(input) whose place is `where`:line.
CsvTable parse_csv(std::span<const std::byte> file, const CsvOptions& options,
                   const std::string& where);

}  // namespace peal
